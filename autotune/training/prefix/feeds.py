"""Batches of live values: of kept ones by index, or computed from others on the way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from autotune.tasks.loading import Feed, FeedBatch
from autotune.training.loop import Recipe
from autotune.training.prefix.program import Program
from autotune.utils.timings import spent


@dataclass(frozen=True, eq=False)
class KeptFeed:
    """Values that are kept, one view an epoch in turn."""

    views: Sequence[Sequence[Tensor]]
    """View → tensors with a row for each example."""

    dtypes: Sequence[torch.dtype]
    """Of the values as the network computes them."""

    labels: Tensor
    device: torch.device

    def __len__(self) -> int:
        return len(self.labels)

    def in_order(self, size: int) -> Iterator[FeedBatch]:
        return self._rows(0, torch.arange(len(self)), size)

    def shuffled(self, size: int, generator: torch.Generator, epoch: int) -> Iterator[FeedBatch]:
        order = torch.randperm(len(self), generator=generator)
        return self._rows(epoch % len(self.views), order, size)

    def _rows(self, view: int, order: Tensor, size: int) -> Iterator[FeedBatch]:
        """Copies, which may be changed in place."""
        for rows in order.split(size):
            pairs = zip(self.views[view], self.dtypes, strict=True)
            taken = tuple(value[rows].to(self.device, dtype) for value, dtype in pairs)
            yield taken, self.labels[rows].to(self.device)


@dataclass(frozen=True, eq=False)
class FrozenStep:
    """The frozen network between what is given and the live values, in batches of one size.

    Always of that size, the last one filled: kernels of another may give other last bits.
    """

    program: Program
    recipe: Recipe
    size: int

    @torch.no_grad()
    def __call__(self, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Rows of live values for rows of what is given."""
        n = len(given[0])
        with spent("prefix"), self.recipe.autocast():
            found = [
                self.program(*(self._filled(rows) for rows in batch))
                for batch in zip(*(tensor.split(self.size) for tensor in given), strict=True)
            ]
        return tuple(_joined(parts)[:n] for parts in zip(*found, strict=True))

    def _filled(self, rows: Tensor) -> Tensor:
        lacking = self.size - len(rows)
        return torch.cat([rows, rows[-1:].expand(lacking, *rows.shape[1:])]) if lacking else rows


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


@dataclass(frozen=True, eq=False)
class ComputedFeed:
    """What a feed gives, on its way to the live values."""

    feed: Feed
    way: FrozenStep

    def __len__(self) -> int:
        return len(self.feed)

    def in_order(self, size: int) -> Iterator[FeedBatch]:
        for values, labels in self.feed.in_order(size):
            yield self.way(values), labels

    def shuffled(self, size: int, generator: torch.Generator, epoch: int) -> Iterator[FeedBatch]:
        for values, labels in self.feed.shuffled(size, generator, epoch):
            yield self.way(values), labels
