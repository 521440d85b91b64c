"""Scale and shift: a factor for every output channel and an offset for every bias."""

from __future__ import annotations

from torch import Tensor, nn

from autotune.deltas.base import cost_of
from autotune.deltas.kernels import Shift, channels, per_channel
from autotune.deltas.parametrized import WeightDelta
from autotune.deltas.site import Site, Slot
from autotune.problem.budget import Cost


class Scale(WeightDelta):
    """W' = (1 + gain)·W per output channel of every layer, b' = b + shift where it has a bias."""

    paper = "SSF (arXiv 2210.08823)"
    what = "a factor per output channel, an offset per bias"
    where = "layers with a kernel, norms"

    def changes(self, site: Site) -> list[Slot]:
        return [s for s in site.slots if s.is_bias() or s.is_matrix() or s.is_norm()]

    def count(self, site: Site) -> Cost:
        chosen = [slot.tensor.dtype for slot in self.changes(site)]
        sizes = [channels(slot) for slot in self.changes(site)]
        return sum((cost_of(n, dtype) for n, dtype in zip(sizes, chosen, strict=True)), Cost())

    def part(self, slot: Slot) -> nn.Module:
        return Shift(slot.tensor) if slot.is_bias() else Gain(slot)


class Gain(nn.Module):
    """gain · W, one factor per output channel, zero at start."""

    def __init__(self, slot: Slot) -> None:
        super().__init__()
        self.slot = (slot,)
        self.gain = nn.Parameter(slot.tensor.new_zeros(channels(slot)))

    def forward(self, weight: Tensor) -> Tensor:
        return weight * per_channel(self.gain, self.slot[0], weight)
