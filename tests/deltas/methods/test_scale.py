"""Scale and shift."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import nn

from autotune.deltas.base import check_method
from autotune.deltas.methods.scale import Scale
from autotune.errors import PlanError
from autotune.problem.plan import Choice
from deltas.contract import GateContract, MergeContract
from deltas.kinds import LAYERS, Kind, left
from deltas.networks import Around
from deltas.rig import Rig

SCALE = Choice.of("scale")


class TestScale(GateContract, MergeContract):
    CHOICES = (SCALE,)
    LEFT_ALONE: ClassVar = {
        "scale": left("a recurrent layer has weight_ih_l0, no weight and no bias", "recurrent")
    }


def test_scales_channels_and_shifts_biases():
    rig = Rig(LAYERS["depthwise"])
    weight, bias = (p.detach().clone() for p in rig.network.unit.parameters())
    with torch.no_grad():
        for parameter in rig.attach(SCALE).parameters():
            parameter.copy_(torch.tensor([0.0, 1.0, -1.0, 0.5]))
    factors = torch.tensor([1.0, 2.0, 0.0, 1.5]).view(-1, 1, 1, 1)
    assert torch.equal(rig.network.unit.weight, weight * factors)
    assert torch.equal(rig.network.unit.bias, bias + torch.tensor([0.0, 1.0, -1.0, 0.5]))


@pytest.mark.parametrize(
    ("layer", "shape", "dtype", "channel"),
    [
        (lambda: nn.Linear(6, 5, bias=False), (6,), "float32", 1),
        (lambda: nn.Conv2d(4, 6, 3, groups=2, bias=False), (4, 5, 5), "float32", 1),
        (lambda: nn.ConvTranspose2d(4, 6, 3, bias=False), (4, 3, 3), "float32", 1),
        (lambda: nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False), (4, 3, 3), "float32", 1),
        (lambda: nn.ConvTranspose1d(4, 8, 3, groups=4, bias=False), (4, 3), "float32", 1),
        (lambda: nn.Embedding(7, 6), (3,), "int64", 2),
        (lambda: nn.EmbeddingBag(7, 6), (3,), "int64", 1),
    ],
)
def test_a_gain_scales_one_channel_of_what_the_layer_gives(layer, shape, dtype, channel):
    rig = Rig(Kind(lambda: Around(layer()), shape, dtype=dtype))
    before = rig.outputs()
    (gain,) = rig.attach(SCALE).parameters()
    with torch.no_grad():
        gain.copy_(torch.arange(len(gain)))
    factors = (1 + gain.detach()).view(-1, *[1] * (before.ndim - 1 - channel))
    assert len(gain) == before.shape[channel]
    torch.testing.assert_close(rig.outputs(), before * factors)


@pytest.mark.parametrize(
    ("kind", "count"), [("convolution", 12), ("grouped", 6), ("batchnorm", 8), ("embedding", 6)]
)
def test_counts_a_number_a_channel(kind, count):
    assert Rig(LAYERS[kind]).attach(SCALE).predicted.parameters == count


def test_has_no_options():
    with pytest.raises(PlanError, match=r"scale has no option 'rank'. Known: none"):
        check_method("scale", {"rank": 1}, Scale)
