"""Two low-rank factors of a kernel, and their product as a change of the kernel."""

from __future__ import annotations

import math

from torch import Tensor, nn

from autotune.deltas.kernels import matrix_shape, rank_of
from autotune.deltas.nested import Nested


class Factors(Nested):
    """A (rank, columns) and B (rows, rank) of a kernel as a matrix; B is zero at start."""

    def __init__(self, kernel: Tensor, rank: int) -> None:
        super().__init__()
        rank, (rows, columns) = rank_of(kernel, rank), matrix_shape(kernel)
        self.a = nn.Parameter(kernel.new_empty(rank, columns))
        self.b = nn.Parameter(kernel.new_zeros(rows, rank))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    @property
    def down(self) -> Tensor:
        """Rows of A in use, (size, columns)."""
        return self.a[: self.size]

    @property
    def up(self) -> Tensor:
        """Columns of B in use, (rows, size)."""
        return self.b[:, : self.size]

    def product(self, kernel: Tensor) -> Tensor:
        """B·A in the kernel's shape."""
        return (self.up @ self.down).view_as(kernel)


class Product(Factors):
    """The change B·A and nothing else, so that a layer may compute it as B·(A·x)."""

    def forward(self, kernel: Tensor) -> Tensor:
        return self.product(kernel)
