"""Batches of a part on the device, from memory or decoded in loader processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from autotune.backbones.inputs import InputDescription
from autotune.errors import TaskError
from autotune.tasks.augment import View, draw_view
from autotune.tasks.numbers import refuse_overflow
from autotune.tasks.part import Part
from autotune.tasks.random_examples import drawn_with, is_random

LOADERS = 2
"""Processes that decode images which do not fit into memory.

Not tuned: they must fit next to several workers, and the cached prefix reads images once.
"""

Batch = tuple[Tensor, Tensor]
"""(inputs, labels)."""

FeedBatch = tuple[tuple[Tensor, ...], Tensor]
"""(arguments of a network: tensors with one row per example; labels)."""


class Feed(Protocol):
    """Batches of examples as arguments of a network."""

    def __len__(self) -> int: ...

    def in_order(self, size: int) -> Iterator[FeedBatch]:
        """All examples in their stored order; the last batch may be smaller."""

    def shuffled(self, size: int, generator: torch.Generator, epoch: int) -> Iterator[FeedBatch]:
        """All examples, their order and augmentation drawn from `generator`."""


@dataclass(frozen=True, eq=False)
class PartFeed:
    """Feeds a part to the whole network."""

    part: Part
    input: InputDescription | None
    device: torch.device
    augment: str = "none"
    views: Sequence[View] = ()
    """Augmented views, one per epoch in turn; when empty, every epoch draws a new one."""

    def __len__(self) -> int:
        return len(self.part)

    def in_order(self, size: int) -> Iterator[FeedBatch]:
        for x, labels in batches(self.part, size, input=self.input, device=self.device):
            yield (x,), labels

    def shuffled(self, size: int, generator: torch.Generator, epoch: int) -> Iterator[FeedBatch]:
        view = self.views[epoch % len(self.views)] if self.views else None
        options: Any = {"input": self.input, "device": self.device, "augment": self.augment}
        for x, labels in shuffled(self.part, size, generator, view=view, **options):
            yield (x,), labels


def batches(
    part: Part, size: int, *, input: InputDescription | None, device: torch.device
) -> Iterator[Batch]:
    """All of `part` in its stored order; the last batch may be smaller."""
    yield from in_rows(part, torch.arange(len(part)), size, input=input, device=device)


def shuffled(
    part: Part,
    size: int,
    generator: torch.Generator,
    *,
    input: InputDescription | None,
    device: torch.device,
    augment: str = "none",
    view: View | None = None,
) -> Iterator[Batch]:
    """All of `part` in an order drawn from `generator`, which also draws a missing view."""
    order = torch.randperm(len(part), generator=generator)
    view = view or draw_view(augment, len(part), generator)
    draw = int(torch.randint(2**31, (), generator=generator)) if is_random(part.inputs) else 0
    ordered = in_rows(part, order, size, input=input, device=device, draw=draw)
    for (inputs, labels), rows in zip(ordered, order.split(size), strict=True):
        yield view(inputs, rows), labels


def in_rows(
    part: Part,
    order: Tensor,
    size: int,
    *,
    input: InputDescription | None,
    device: torch.device,
    draw: int = 0,
) -> Iterator[Batch]:
    """Rows of `part` (int64) in this order, as the network takes them, on the device.

    `draw` is the seed of transforms that draw at random.
    """
    labels = torch.from_numpy(part.labels)
    for examples, rows in _raw_rows(part, order, size, device, draw):
        inputs = examples.to(device)
        if input is not None:
            inputs = input.as_taken(inputs)
        yield inputs, labels[rows].to(device)


def _raw_rows(
    part: Part, order: Tensor, size: int, device: torch.device, draw: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """(examples as they are stored, their rows)."""
    if isinstance(part.inputs, Tensor):
        for rows in order.split(size):
            yield part.inputs[rows], rows
        return
    loader = DataLoader(
        _Indexed(part.inputs, draw),
        batch_sampler=[rows.tolist() for rows in order.split(size)],
        num_workers=LOADERS,
        pin_memory=device.type == "cuda",
    )
    try:
        yield from loader
    except TaskError as error:
        # The loader puts its process's traceback in front of the line, and its own keeps the
        # processes alive until the garbage collector has waited for each of them.
        line = str(error).strip().rpartition("TaskError: ")[2]
        raise TaskError(line) from error.with_traceback(None)


class _Indexed(Dataset[tuple[Tensor, int]]):
    def __init__(self, examples: Sequence[Tensor], draw: int) -> None:
        self.examples, self.draw = examples, draw if is_random(examples) else None

    def __getitem__(self, at: int) -> tuple[Tensor, int]:
        if self.draw is None:
            return self.examples[at], at
        with drawn_with(self.draw, at):
            return self.examples[at], at


def check_fits(part: Part, input: InputDescription | None, source: str) -> None:
    """Raise `TaskError` if the backbone cannot take the examples."""
    example = part.first()
    shape, is_raw = tuple(example.shape), example.dtype == torch.uint8
    if input is None:
        if is_raw:
            raise TaskError(
                f"uint8 images need an input description, the backbone has none for {source}. "
                "Give --input FILE (size, channels, mean, std), or float arrays."
            )
        return
    if shape != input.example_shape:
        raise TaskError(
            f"Examples must be {_size(input.example_shape)} as the backbone takes them, "
            f"{source} has {_size(shape)}. Resize them, or describe another input with --input."
        )
    if isinstance(part.inputs, Tensor):
        refuse_overflow(part.inputs, input.dtype, source)


def _size(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def generator_of(seed: int, epoch: int) -> torch.Generator:
    """Generator of one epoch, the same in an uninterrupted and in a resumed run."""
    # larger than any number of epochs, so that no two seeds share a generator
    return torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)


def infer_input(part: Part, described: InputDescription | None) -> InputDescription | None:
    """The backbone's description or, if it has none, that of the arrays; None for uint8 images."""
    if described is not None:
        return described
    example: Any = part.first()
    if example.dtype == torch.uint8:
        return None
    return InputDescription(shape=tuple(example.shape), dtype=str(example.dtype).split(".")[1])
