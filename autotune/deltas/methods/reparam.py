"""Gated weight reparametrization: a change of a unit's kernels in one of four forms."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from autotune.deltas.base import check_size, check_word, cost_of
from autotune.deltas.factors import Factors, Product
from autotune.deltas.kernels import Shift, channels, matrix_shape, rank_of, top_singular_masses
from autotune.deltas.methods.scale import Gain
from autotune.deltas.parametrized import WeightDelta
from autotune.deltas.site import Site, Slot
from autotune.problem.budget import Cost

_FORMS = ("full", "lowrank", "channel", "times")


class Reparam(WeightDelta):
    """W' = W + g·ΔW for every kernel of the unit, ΔW zero at start, merged at the end.

    ΔW is `full` (as large as W), `lowrank` (B·A), per output `channel` (gain·W), or `times`
    (B·A ⊙ W). The gate g is 1 unless a policy sets it. In the spirit of SWR, of which only the
    abstract and a patent application were available.
    """

    paper = "in the spirit of SWR (arXiv 2302.13435)"
    what = "a gated change of every kernel, in one of four forms"
    where = "layers with a kernel"
    nests = "rank"

    def __init__(self, form: str, rank: int = 1) -> None:
        super().__init__()
        self.form = check_word("reparam", "form", form, _FORMS)
        self.rank = check_size("reparam", "rank", rank)

    def retrains(self) -> bool:
        return self.form == "full"

    def changes(self, site: Site) -> list[Slot]:
        return [slot for slot in site.slots if slot.is_matrix()]

    def count(self, site: Site) -> Cost:
        slots = self.changes(site)
        return sum((cost_of(self._size(slot), slot.tensor.dtype) for slot in slots), Cost())

    def part(self, slot: Slot) -> nn.Module:
        kernel = slot.tensor
        if self.form == "full":
            return Shift(kernel)
        if self.form == "channel":
            return Gain(slot)
        return (_Times if self.form == "times" else Product)(kernel, self.rank)

    def masses(
        self, gradients: Sequence[tuple[Slot, Tensor]], sizes: Sequence[int]
    ) -> Sequence[float] | None:
        if self.form == "lowrank":
            return top_singular_masses([gradient for _, gradient in gradients], sizes)
        if self.form == "times":
            # the loss's gradient by B·A, as ΔW = B·A ⊙ W
            by_product = [gradient * slot.frozen.detach() for slot, gradient in gradients]
            return top_singular_masses(by_product, sizes)
        return None

    def _size(self, slot: Slot) -> int:
        kernel = slot.tensor
        if self.form == "full":
            return kernel.numel()
        if self.form == "channel":
            return channels(slot)
        return rank_of(kernel, self.rank) * sum(matrix_shape(kernel))


class _Times(Factors):
    """B·A ⊙ W."""

    def forward(self, kernel: Tensor) -> Tensor:
        return self.product(kernel) * kernel
