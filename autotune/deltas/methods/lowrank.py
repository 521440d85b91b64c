"""LoRA: a low-rank change of each kernel of a unit."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from autotune.deltas.base import check_size, cost_of
from autotune.deltas.factors import Product
from autotune.deltas.kernels import matrix_shape, rank_of, top_singular_masses
from autotune.deltas.parametrized import WeightDelta
from autotune.deltas.site import Site, Slot
from autotune.problem.budget import Cost


class LowRank(WeightDelta):
    """W' = W + B·A for every kernel, embedding and projection of the unit, B zero at start.

    A kernel is a matrix of `matrix_shape`, so that A is (rank, columns) and B is (rows, rank).
    There is no factor alpha / rank: the learning rate of the method takes its place.
    """

    paper = "LoRA (arXiv 2106.09685)"
    what = "a change of rank r of every kernel"
    where = "layers with a kernel"
    nests = "rank"
    is_uniform_baseline = True

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = check_size("lowrank", "rank", rank)

    def changes(self, site: Site) -> list[Slot]:
        return [slot for slot in site.slots if slot.is_matrix()]

    def count(self, site: Site) -> Cost:
        kernels = [slot.tensor for slot in self.changes(site)]
        sizes = [(rank_of(k, self.rank) * sum(matrix_shape(k)), k.dtype) for k in kernels]
        return sum((cost_of(n, dtype) for n, dtype in sizes), Cost())

    def part(self, slot: Slot) -> nn.Module:
        return Product(slot.tensor, self.rank)

    def masses(
        self, gradients: Sequence[tuple[Slot, Tensor]], sizes: Sequence[int]
    ) -> Sequence[float]:
        return top_singular_masses([gradient for _, gradient in gradients], sizes)
