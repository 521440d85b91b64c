"""Scale and shift: a factor for every output channel and an offset for every bias."""

from __future__ import annotations

from torch import Tensor, nn

from autotune.budget import Cost
from autotune.deltas.base import Parametrized, Site, Slot, cost_of


class Scale(Parametrized):
    """W' = (1 + gain)·W per output channel of every layer, b' = b + shift where it has a bias."""

    paper = "SSF (arXiv 2210.08823)"

    def changes(self, site: Site) -> list[Slot]:
        return [s for s in site.slots if s.is_bias() or s.is_matrix() or s.is_norm()]

    def count(self, site: Site) -> Cost:
        chosen = [slot.tensor for slot in self.changes(site)]
        return sum((cost_of(len(t), t.dtype) for t in chosen), Cost())

    def part(self, slot: Slot) -> nn.Module:
        return _Shift(slot.tensor) if slot.is_bias() else _Gain(slot.tensor)


class _Gain(nn.Module):
    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.gain = nn.Parameter(weight.new_zeros(len(weight)))

    def forward(self, weight: Tensor) -> Tensor:
        return weight * (1 + self.gain).view(-1, *[1] * (weight.ndim - 1))


class _Shift(nn.Module):
    def __init__(self, bias: Tensor) -> None:
        super().__init__()
        self.shift = nn.Parameter(bias.new_zeros(len(bias)))

    def forward(self, bias: Tensor) -> Tensor:
        return bias + self.shift
