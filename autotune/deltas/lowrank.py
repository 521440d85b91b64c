"""LoRA: a low-rank change of each kernel of a unit."""

from __future__ import annotations

import math

from torch import Tensor, nn

from autotune.budget import Cost
from autotune.deltas.base import Parametrized, Site, Slot, cost_of
from autotune.errors import PlanError


class LowRank(Parametrized):
    """W' = W + B·A for every Linear and convolution of the unit, B zero at start.

    A kernel (out, in/groups, height, width) is a matrix of `out` rows, so that A is
    (rank, in/groups·height·width) and B is (out, rank). There is no factor alpha / rank: the
    learning rate of the method takes its place.
    """

    paper = "LoRA (arXiv 2106.09685)"

    def __init__(self, rank: int) -> None:
        super().__init__()
        if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
            raise PlanError(f"lowrank needs a rank of at least 1, got {rank!r}.")
        self.rank = rank

    def changes(self, site: Site) -> list[Slot]:
        return [slot for slot in site.slots if slot.is_matrix()]

    def count(self, site: Site) -> Cost:
        kernels = [slot.tensor for slot in self.changes(site)]
        sizes = [(_rank(k, self.rank) * (len(k) + k[0].numel()), k.dtype) for k in kernels]
        return sum((cost_of(n, dtype) for n, dtype in sizes), Cost())

    def part(self, slot: Slot) -> nn.Module:
        return _LowRank(slot.tensor, self.rank)


class _LowRank(nn.Module):
    def __init__(self, kernel: Tensor, rank: int) -> None:
        super().__init__()
        rank, columns = _rank(kernel, rank), kernel[0].numel()
        self.a = nn.Parameter(kernel.new_empty(rank, columns))
        self.b = nn.Parameter(kernel.new_zeros(len(kernel), rank))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, kernel: Tensor) -> Tensor:
        return kernel + (self.b @ self.a).view_as(kernel)


def _rank(kernel: Tensor, rank: int) -> int:
    return min(rank, len(kernel), kernel[0].numel())
