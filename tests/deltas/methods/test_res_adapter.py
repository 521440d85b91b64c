"""Res-Adapter."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autotune.problem.plan import Choice
from deltas.contract import PathContract
from deltas.kinds import LAYERS, WITHOUT_ATTENTION, Kind, left
from deltas.networks import Around, WindowBlock
from deltas.rig import Rig


class TestResAdapter(PathContract):
    CHOICES = tuple(
        Choice.of("res_adapter", width=2, at=at) for at in ("block", "attention", "mlp")
    )
    TYPICAL = ("linear", "block", "attention-batch-second", "transformer")
    LEFT_ALONE: ClassVar = {
        "res_adapter-2-attention": WITHOUT_ATTENTION,
        "res_adapter-2-mlp": left(
            "no module's class says that it is an MLP", *(k for k in LAYERS if k != "transformer")
        ),
    }


class Windows(nn.Sequential):
    """(n, 4, height, width) → (n, height, width, 4), as Swin's blocks have it."""

    def __init__(self) -> None:
        super().__init__(WindowBlock(4), WindowBlock(4))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1))


@pytest.mark.parametrize(
    ("kind", "channel"),
    [
        (LAYERS["block"], 1),
        (LAYERS["conv1d"], 1),
        (LAYERS["transformer"], 2),
        (LAYERS["linear"], 1),
        (Kind(lambda: Around(Windows()), (4, 5, 5)), 3),
    ],
    ids=["images", "frames", "tokens", "vectors", "channels last"],
)
def test_adds_a_bottleneck_of_the_blocks_own_output(kind, channel):
    rig = Rig(kind)
    before = rig.outputs()
    deltas = rig.attach(Choice.of("res_adapter", width=2))
    rig.train(deltas)
    (adapter,) = deltas.by_place["unit", "res_adapter"].path
    y = (before / rig.network.behind).movedim(channel, -1)
    expected = y + adapter.up(F.gelu(adapter.down(y)))
    torch.testing.assert_close(
        rig.outputs(), expected.movedim(-1, channel).detach() * rig.network.behind
    )


@pytest.mark.parametrize(
    ("at", "part"), [("attention", lambda unit: unit.attention), ("mlp", lambda unit: unit.mlp)]
)
def test_is_added_to_the_part_that_is_named(at, part):
    rig = Rig(LAYERS["transformer"])
    x = rig.batch
    inputs = (x, x, x) if at == "attention" else (x,)
    module = part(rig.network.unit.eval())
    before = module(*inputs)
    deltas = rig.attach(Choice.of("res_adapter", width=2, at=at))
    rig.train(deltas)
    (adapter,) = deltas.by_place["unit", "res_adapter"].path
    after = module(*inputs)
    if at == "attention":
        assert torch.equal(after[1], before[1])
        before, after = before[0], after[0]
    torch.testing.assert_close(after, before + adapter(before))


def test_costs_two_projections_and_a_bias():
    deltas = Rig(LAYERS["block"]).attach(Choice.of("res_adapter", width=2))
    assert deltas.predicted.parameters == deltas.cost().parameters == 6 * 2 + 2 + 2 * 6
