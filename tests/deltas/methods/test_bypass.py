"""Res-Tuning-Bypass."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch.nn import functional as F

from autotune.deltas.candidates import check_plan
from autotune.errors import PlanError
from autotune.problem.plan import Choice, Plan
from deltas.contract import SpanContract
from deltas.kinds import NETWORKS, SPANS, STAGES, left
from deltas.rig import Rig, with_a_graph

BYPASS = Choice.of("bypass", width=2)


class TestBypass(SpanContract):
    CHOICES = (BYPASS,)
    TYPICAL = ("in-place", "words", "by-name")
    LEFT_ALONE: ClassVar = {"bypass-2": left("it runs beside the whole network", *STAGES)}


@pytest.mark.parametrize("kind", NETWORKS)
def test_no_graph_goes_through_the_backbone(kind):
    rig = Rig(SPANS[kind])
    rig.attach(BYPASS).train()
    assert with_a_graph(rig) == {"head", ""}


def test_the_head_reads_what_the_recursion_gives():
    rig = Rig(SPANS["vectors"])
    deltas = rig.attach(BYPASS)
    rig.train(deltas)
    path = deltas.by_place["span", "bypass"].path
    first = rig.network.first(rig.batch)
    second = rig.network.second(first.tanh())
    before, deviation = None, None
    for level, x in enumerate((first, second, second)):
        lateral = path.lateral[level](F.layer_norm(x, x.shape[1:]))
        if before is not None:
            below = before + deviation
            risen = path.vertical[level - 1](F.layer_norm(below, below.shape[1:]))
            share = path.share[level - 1].sigmoid()
            lateral = share * lateral + (1 - share) * (deviation[:, : x.shape[1]] + risen)
        before, deviation = x, lateral
    head = rig.network.head
    expected = F.linear(second + deviation, head.weight, head.bias).detach()
    torch.testing.assert_close(rig.outputs(), expected)


def test_survives_levels_that_the_network_overwrites():
    rig = Rig(SPANS["in-place"])
    seen = []
    rig.network.first.register_forward_hook(lambda _, __, inputs: seen.append(inputs.clone()))
    path = rig.attach(BYPASS).by_place["span", "bypass"].path
    path.lateral[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    rig.outputs()
    first = seen[0].movedim(1, -1)
    assert first.min() < 0
    assert torch.equal(seen[1], F.layer_norm(first, first.shape[-1:]))


def test_keeps_nothing_of_a_batch():
    rig = Rig(SPANS["images"])
    delta = rig.attach(BYPASS).by_place["span", "bypass"]
    whole = rig.outputs()
    assert delta._state is None
    rig.batch = rig.batch[:2]
    torch.testing.assert_close(rig.outputs(), whole[:2])


def test_a_plan_with_it_has_no_other_choice():
    with pytest.raises(PlanError, match="must leave all else frozen, this one changes 2 units"):
        check_plan(Plan({"network": BYPASS, "first": Choice.of("scale")}))
    with pytest.raises(PlanError, match="must leave all else frozen"):
        check_plan(Plan({"network": BYPASS, "stage": Choice.of("skip", width=2)}))
    check_plan(Plan({"network": BYPASS, "first": Choice()}))
