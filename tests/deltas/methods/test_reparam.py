"""Gated weight reparametrization."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch

from autotune.deltas.methods.reparam import Reparam
from autotune.errors import PlanError
from autotune.problem.plan import Choice
from deltas.contract import GateContract, MergeContract
from deltas.kinds import LAYERS, WITHOUT_KERNEL
from deltas.rig import Rig

FORMS = ("full", "lowrank", "channel", "times")


class TestReparam(GateContract, MergeContract):
    CHOICES = tuple(Choice.of("reparam", form=form, rank=2) for form in FORMS)
    LEFT_ALONE: ClassVar = {choice.label: WITHOUT_KERNEL for choice in CHOICES}
    TRIED_ON: ClassVar = {"reparam-lowrank-2": ("tied", "block")}  # its parts are LowRank's


@pytest.mark.parametrize(
    ("form", "count"), [("full", 6 * 36), ("lowrank", 6 + 36), ("channel", 6), ("times", 6 + 36)]
)
def test_each_form_has_its_cost(form, count):
    deltas = Rig(LAYERS["convolution"]).attach(Choice.of("reparam", form=form))
    assert deltas.predicted.parameters == deltas.cost().parameters == count


def test_times_leaves_weights_of_zero_at_zero():
    rig = Rig(LAYERS["linear"])
    with torch.no_grad():
        rig.network.unit.weight[2] = 0.0
    rig.train(rig.attach(Choice.of("reparam", form="times", rank=2)))
    assert not rig.network.unit.weight[2].any()
    assert rig.network.unit.weight[3].any()


def test_a_gate_of_a_half_applies_half_of_the_change():
    rig = Rig(LAYERS["linear"])
    before = rig.network.unit.weight.detach().clone()
    deltas = rig.attach(Choice.of("reparam", form="full"))
    rig.train(deltas)
    change = rig.network.unit.weight - before
    deltas.by_place["unit", "reparam"].gate = 0.5
    torch.testing.assert_close(rig.network.unit.weight, before + 0.5 * change)


def test_refuses_another_form_in_one_line():
    with pytest.raises(PlanError, match=r"one of full, .*, times, got 'half'\.$"):
        Reparam("half")
