"""Batches of a part: from memory, or decoded in loader processes; seeded, augmented in training."""

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
from autotune.tasks.part import Part

LOADERS = 2
"""Processes that decode pictures which do not fit into memory."""

Batch = tuple[Tensor, Tensor]
"""(inputs, labels)."""

Given = tuple[tuple[Tensor, ...], Tensor]
"""(what a network takes, one tensor or several with a row for each example; labels)."""


class Feed(Protocol):
    """Examples as a network takes them, batch by batch."""

    def __len__(self) -> int: ...

    def in_order(self, size: int) -> Iterator[Given]:
        """All of them in their own order, the last batch maybe smaller."""

    def shuffled(self, size: int, generator: torch.Generator, epoch: int) -> Iterator[Given]:
        """All of them in an order, and with augmentation, drawn from `generator`."""


@dataclass(frozen=True, eq=False)
class PartFeed:
    """A part, for the whole network."""

    part: Part
    input: InputDescription | None
    device: torch.device
    augment: str = "none"
    views: Sequence[View] = ()
    """Shown one an epoch in turn; without any, every epoch draws a new one."""

    def __len__(self) -> int:
        return len(self.part)

    def in_order(self, size: int) -> Iterator[Given]:
        for x, labels in batches(self.part, size, input=self.input, device=self.device):
            yield (x,), labels

    def shuffled(self, size: int, generator: torch.Generator, epoch: int) -> Iterator[Given]:
        view = self.views[epoch % len(self.views)] if self.views else None
        options: Any = {"input": self.input, "device": self.device, "augment": self.augment}
        for x, labels in shuffled(self.part, size, generator, view=view, **options):
            yield (x,), labels


def batches(
    part: Part, size: int, *, input: InputDescription | None, device: torch.device
) -> Iterator[Batch]:
    """All of `part` in its own order, the last batch maybe smaller."""
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
    """All of `part` in an order drawn from `generator`; its view too, where none is given."""
    order = torch.randperm(len(part), generator=generator)
    view = view or draw_view(augment, len(part), generator)
    given = in_rows(part, order, size, input=input, device=device)
    for (inputs, labels), rows in zip(given, order.split(size), strict=True):
        yield view(inputs, rows), labels


def normalised(part: Part, input: InputDescription | None) -> Part:
    """The part with its uint8 pictures as the network takes them, when they are in memory."""
    if isinstance(part.inputs, Tensor) and part.inputs.dtype == torch.uint8:
        assert input is not None
        return Part(input.normalise(part.inputs), part.labels)
    return part


def in_rows(
    part: Part,
    order: Tensor,
    size: int,
    *,
    input: InputDescription | None,
    device: torch.device,
) -> Iterator[Batch]:
    """Some rows of `part` (int64) in this order."""
    labels = torch.from_numpy(part.labels)
    source = part.inputs
    if isinstance(source, Tensor):
        for rows in order.split(size):
            yield source[rows].to(device), labels[rows].to(device)
        return
    loader = DataLoader(
        _Indexed(source),
        batch_sampler=[rows.tolist() for rows in order.split(size)],
        num_workers=LOADERS,
        pin_memory=device.type == "cuda",
    )
    try:
        for pictures, rows in loader:
            is_raw = pictures.dtype == torch.uint8
            inputs = input.normalise(pictures) if input is not None and is_raw else pictures
            yield inputs.to(device), labels[rows].to(device)
    except TaskError as error:
        # The loader puts its process's traceback in front of the line, and its own keeps the
        # processes alive until the garbage collector has waited for each of them.
        line = str(error).strip().rpartition("TaskError: ")[2]
        raise TaskError(line) from error.with_traceback(None)


class _Indexed(Dataset[tuple[Tensor, int]]):
    def __init__(self, examples: Sequence[Tensor]) -> None:
        self.examples = examples

    def __getitem__(self, at: int) -> tuple[Tensor, int]:
        return self.examples[at], at


def check_fits(part: Part, input: InputDescription | None, source: str) -> None:
    """Raise `TaskError` when the examples are not what the backbone takes."""
    example = part.first()
    shape, is_raw = tuple(example.shape), example.dtype == torch.uint8
    if input is None:
        if is_raw:
            raise TaskError(
                f"uint8 pictures need a described input, {source} has them but the backbone says "
                "nothing. Give --input FILE (size, channels, mean, std), or float arrays."
            )
        return
    if shape != input.example_shape:
        raise TaskError(
            f"Examples must be {_size(input.example_shape)} as the backbone takes them, "
            f"{source} has {_size(shape)}. Resize them, or describe another input with --input."
        )


def _size(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def generator_of(seed: int, epoch: int) -> torch.Generator:
    """Random numbers of one epoch, the same whether it is reached at once or after a resume."""
    return torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)


def infer_input(part: Part, given: InputDescription | None) -> InputDescription | None:
    """The backbone's description, or the shape and dtype of plain arrays when it has none."""
    if given is not None:
        return given
    example: Any = part.first()
    if example.dtype == torch.uint8:
        return None
    return InputDescription(shape=tuple(example.shape), dtype=str(example.dtype).split(".")[1])
