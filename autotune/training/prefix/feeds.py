"""Feeds of live values, which are read from the cache or computed from earlier values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from autotune.backbones.activation_checkpoints import plain_checkpoints
from autotune.tasks.loading import Feed, FeedBatch
from autotune.training.loop import Recipe
from autotune.training.prefix.program import Program
from autotune.utils.timings import spent


@dataclass(frozen=True, eq=False)
class KeptFeed:
    """Feed of cached values, in which epochs use the views in turn."""

    views: Sequence[Sequence[Tensor]]
    """For each view, tensors with one row per example."""

    dtypes: Sequence[torch.dtype]
    """dtypes of the values as the network computes them."""

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
        """Copies of rows, which the network may change in place."""
        for rows in order.split(size):
            pairs = zip(self.views[view], self.dtypes, strict=True)
            values = tuple(value[rows].to(self.device, dtype) for value, dtype in pairs)
            yield values, self.labels[rows].to(self.device)


@dataclass(frozen=True, eq=False)
class FrozenStep:
    """Frozen network between known and live values, which runs in batches of a fixed size.

    The last batch is padded to this size, since kernels may round differently for other sizes.
    """

    program: Program
    recipe: Recipe
    size: int

    @torch.no_grad()
    @plain_checkpoints()
    def __call__(self, known: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Rows of live values for rows of known values."""
        n = len(known[0])
        with spent("prefix"), self.recipe.autocast():
            batches = [
                self.program(*(self._filled(rows) for rows in batch))
                for batch in zip(*(tensor.split(self.size) for tensor in known), strict=True)
            ]
        return tuple(_joined(parts)[:n] for parts in zip(*batches, strict=True))

    def _filled(self, rows: Tensor) -> Tensor:
        missing = self.size - len(rows)
        return torch.cat([rows, rows[-1:].expand(missing, *rows.shape[1:])]) if missing else rows


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


@dataclass(frozen=True, eq=False)
class ComputedFeed:
    """Feed of live values that are computed from the values of another feed."""

    feed: Feed
    step: FrozenStep

    def __len__(self) -> int:
        return len(self.feed)

    def in_order(self, size: int) -> Iterator[FeedBatch]:
        for values, labels in self.feed.in_order(size):
            yield self.step(values), labels

    def shuffled(self, size: int, generator: torch.Generator, epoch: int) -> Iterator[FeedBatch]:
        for values, labels in self.feed.shuffled(size, generator, epoch):
            yield self.step(values), labels
