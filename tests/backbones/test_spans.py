"""Levels of a span follow the computation, in whatever order modules were registered."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autotune.backbones.base import describe
from autotune.backbones.dataflow import trace
from autotune.backbones.inputs import InputDescription
from autotune.backbones.spans import with_spans
from autotune.backbones.units import find_units
from autotune.run.settings import load_space


class Backwards(nn.Module):
    """Registers its last block first."""

    def __init__(self, widths: tuple[int, int, int]) -> None:
        super().__init__()
        a, b, c = widths
        self.third, self.second, self.first = nn.Linear(b, c), nn.Linear(a, b), nn.Linear(4, a)
        self.head = nn.Linear(c, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.third(self.second(self.first(x).relu()).relu()).relu())  # type: ignore[no-any-return]


def levels(network: nn.Module) -> list[str]:
    """First parameter of each level of the whole network."""
    shape = InputDescription(shape=(4,))
    backbone = describe(network.eval(), source="test", family="any", input=shape)
    tables, flow = load_space("any").units, trace(network, shape)
    spans = with_spans(backbone, find_units(backbone, tables.block), tables, flow)
    (whole,) = (unit for unit in spans if unit.name == "network")
    return [names[0] for names in whole.levels]


def test_levels_follow_the_computation():
    torch.manual_seed(0)
    for widths in ((8, 8, 8), (8, 6, 5)):
        order = ["first.weight", "second.weight", "third.weight", "head.weight"]
        assert levels(Backwards(widths)) == order
