"""Δ-skip."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch.nn import functional as F

from autotune.problem.plan import Choice
from deltas.contract import SpanContract
from deltas.kinds import NETWORKS, SPANS, left
from deltas.rig import Rig

SKIP = Choice.of("skip", width=2)


class TestSkip(SpanContract):
    CHOICES = (SKIP,)
    TYPICAL = ("in-place-stage", "widening-stage", "window-stage")
    LEFT_ALONE: ClassVar = {
        "skip-2": {
            **left("it has no height and width", "token-stage", "word-stage"),
            **left("it stands beside a stage, not the network", *NETWORKS),
        }
    }


@pytest.mark.parametrize(("kind", "channel"), [("widening-stage", 1), ("window-stage", 3)])
def test_adds_convolutions_of_the_stages_features(kind, channel):
    rig = Rig(SPANS[kind])
    stage, seen = rig.network.get_submodule(SPANS[kind].levels[0]), []
    handle = stage.register_forward_hook(lambda _, __, inputs: seen.append(inputs))
    deltas = rig.attach(SKIP)
    rig.train(deltas)
    seen.clear()
    rig.outputs()
    handle.remove()
    stage.register_forward_hook(lambda _, __, inputs: seen.append(inputs))
    rig.outputs()
    path, h = deltas.by_place["span", "skip"].path, seen[0].movedim(channel, 1)
    expected = h + path.up(F.gelu(path.depthwise(path.down(h))))
    assert seen[1].shape == seen[0].shape
    torch.testing.assert_close(seen[1].movedim(channel, 1), expected.detach())


def test_costs_three_light_convolutions():
    cost = Rig(SPANS["stage"]).attach(SKIP).predicted
    assert cost.parameters == 4 * 2 + (9 + 1) * 2 + 2 * 4
