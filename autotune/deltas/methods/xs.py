"""LoRA-XS: a small square matrix between frozen singular vectors of each kernel."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from autotune.backbones.base import fingerprint
from autotune.backbones.precision import widened
from autotune.deltas.base import check_size, cost_of
from autotune.deltas.kernels import matrix_shape, rank_of
from autotune.deltas.nested import Nested
from autotune.deltas.parametrized import WeightDelta
from autotune.deltas.site import Site, Slot
from autotune.problem.budget import Cost


class XS(WeightDelta):
    """W' = W + UΣ·R·Vᵀ with the r largest singular triples of W frozen and R (r, r) trained.

    The cost is r² per kernel, however large the kernel. The factors are not stored: they are
    computed from the backbone again.
    """

    paper = "LoRA-XS (arXiv 2405.17604)"
    what = "an r × r matrix between frozen singular vectors of every kernel"
    where = "layers with a kernel"
    nests = "rank"

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = check_size("xs", "rank", rank)

    def changes(self, site: Site) -> list[Slot]:
        return [slot for slot in site.slots if slot.is_matrix()]

    def count(self, site: Site) -> Cost:
        kernels = [slot.tensor for slot in self.changes(site)]
        return sum((cost_of(rank_of(k, self.rank) ** 2, k.dtype) for k in kernels), Cost())

    def part(self, slot: Slot) -> nn.Module:
        return _Core(slot, self.rank)


class _Core(Nested):
    def __init__(self, slot: Slot, rank: int) -> None:
        super().__init__()
        kernel = slot.tensor.detach()
        rank = rank_of(kernel, rank)
        left, right = _factors(slot, rank)
        wide = widened(kernel)
        self.register_buffer("left", left.to(wide), persistent=False)
        self.register_buffer("right", right.to(wide), persistent=False)
        self.core = nn.Parameter(wide.new_zeros(rank, rank))

    def forward(self, kernel: Tensor) -> Tensor:
        r = self.size
        left, right = self.get_buffer("left")[:, :r], self.get_buffer("right")[:r]
        return (left @ self.core[:r, :r] @ right).view_as(kernel)


_CACHE: WeakKeyDictionary[nn.Module, dict[tuple[str, int], tuple[str, Tensor, Tensor]]]
_CACHE = WeakKeyDictionary()
"""Layer → (attribute, rank) → digest of the kernel, UΣ, Vᵀ: computed once for all trials."""


def _factors(slot: Slot, rank: int) -> tuple[Tensor, Tensor]:
    frozen, key = slot.frozen.detach(), (slot.attribute, rank)
    digest = fingerprint({slot.attribute: frozen})
    known = _CACHE.setdefault(slot.layer, {}).get(key)
    if known is None or known[0] != digest:
        matrix = frozen.reshape(matrix_shape(frozen)).double().cpu()
        known = (digest, *singular_triples(matrix, rank))
        _CACHE[slot.layer][key] = known
    return known[1], known[2]


def singular_triples(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """UΣ (rows, rank) and Vᵀ (rank, columns) of the largest singular values of a float64 matrix.

    They come from the eigenvectors of the smaller Gram matrix. The largest entry of each column of
    U is made positive, so that signs are the same on every machine.
    """
    rows, columns = matrix.shape
    if rows > columns:
        scaled_v, ut = singular_triples(matrix.t(), rank)
        sizes = scaled_v.norm(dim=0)
        u, v = ut.t(), scaled_v / sizes.clamp_min(_TINY)
    else:
        u = torch.linalg.eigh(matrix @ matrix.t()).eigenvectors.flip(1)[:, :rank]
        scaled_vt = u.t() @ matrix
        sizes = scaled_vt.norm(dim=1)
        v = (scaled_vt / sizes.clamp_min(_TINY)[:, None]).t()
    signs = u.gather(0, u.abs().argmax(0, keepdim=True)).sign()
    return u * sizes * signs, (v * signs).t()


_TINY = 1e-30
"""Smallest divisor: a singular value may be 0, and its column of V stays 0 then."""
