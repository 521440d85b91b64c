"""Sparse: train the k most important weights of a unit and freeze all others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce

import torch
from torch import Tensor, nn

from autotune.backbones.precision import trained_dtype
from autotune.deltas.base import Evidence, check_size, check_word, stored_cost
from autotune.deltas.parametrized import WeightDelta
from autotune.deltas.site import Site, Slot
from autotune.problem.budget import Cost

_BY = ("fisher", "gradient", "random")
_INDEX = torch.int32


class Sparse(WeightDelta):
    """W' = W + δ on `k` weights of the unit that are chosen once, before training; δ zero at start.

    They are chosen by per-sample empirical Fisher (the mean of squared gradients), by the size of
    the mean gradient, or at random; always at random without evidence, as before a file is loaded.
    The delta is stored as indices and values, so that the optimizer keeps moments for `k` values
    alone and weight decay touches no other weight.
    """

    paper = "FISH (arXiv 2111.09839), GPS (arXiv 2312.10136), SHiRA (arXiv 2406.13175)"
    what = "k weights: of largest Fisher information or gradient, or random"
    where = "every layer"

    def __init__(self, k: int, by: str = "fisher") -> None:
        super().__init__()
        self.k = check_size("sparse", "k", k)
        self.by = check_word("sparse", "by", by, _BY)
        self._chosen: Tensor | None = None

    def changes(self, site: Site) -> list[Slot]:
        return list(site.slots)

    def count(self, site: Site) -> Cost:
        k, dtype = min(self.k, _total(site)), _dtype(site)
        return Cost(k, k, k * dtype.itemsize) + stored_cost(k, _INDEX)

    def start(self, site: Site, evidence: Evidence) -> None:
        if self.by != "random":
            scores = evidence.scores(self.by)
            flat = torch.cat([scores[slot.name].detach().flatten().cpu() for slot in site.slots])
            best = torch.argsort(flat, descending=True, stable=True)[: self.k]
            self._chosen = best.sort().values

    def attach(self, site: Site) -> None:
        if self._chosen is None:
            self._chosen = torch.randperm(_total(site))[: self.k].sort().values
        device = site.slots[0].tensor.device
        self.register_buffer("indices", self._chosen.to(device, _INDEX))
        values = torch.zeros(len(self._chosen), dtype=_dtype(site), device=device)
        self.values = nn.Parameter(values)
        super().attach(site)

    def part(self, slot: Slot) -> nn.Module:
        first = sum(part.numel for part in self.parts.values())  # type: ignore[misc]
        return _Scattered(self._values, int(first), slot.tensor.numel())

    def tensors(self) -> dict[str, Tensor]:
        return {"indices": self.get_buffer("indices"), "values": self.values}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        super().load(tensors)
        for part in self.parts.values():
            assert isinstance(part, _Scattered)
            part.find()

    def _values(self) -> tuple[Tensor, Tensor]:
        return self.get_buffer("indices"), self.values


class _Scattered(nn.Module):
    """Change of one tensor: the values at their indices, zero elsewhere."""

    def __init__(self, held: Callable[[], tuple[Tensor, Tensor]], first: int, numel: int) -> None:
        super().__init__()
        self.held, self.first, self.numel = held, first, numel
        self.find()

    def find(self) -> None:
        indices = self.held()[0].long() - self.first
        is_in_slot = (indices >= 0) & (indices < self.numel)
        self.register_buffer("rows", is_in_slot.nonzero().flatten(), persistent=False)
        self.register_buffer("at", indices[is_in_slot], persistent=False)

    def forward(self, tensor: Tensor) -> Tensor:
        values = self.held()[1].to(tensor)[self.get_buffer("rows")]
        blank = tensor.new_zeros(self.numel)
        return blank.index_put((self.get_buffer("at"),), values).view_as(tensor)


def _total(site: Site) -> int:
    return sum(slot.tensor.numel() for slot in site.slots)


def _dtype(site: Site) -> torch.dtype:
    return reduce(torch.promote_types, (trained_dtype(slot.tensor.dtype) for slot in site.slots))
