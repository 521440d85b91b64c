"""Batches of a part: from memory, or decoded in loader processes; seeded, augmented in training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from autotune.backbones.inputs import InputDescription
from autotune.errors import TaskError
from autotune.tasks.base import Part

LOADERS = 2
"""Processes that decode pictures which do not fit into memory."""

Batch = tuple[Tensor, Tensor]


def batches(
    part: Part, size: int, *, input: InputDescription | None, device: torch.device
) -> Iterator[Batch]:
    """All of `part` in its own order, the last batch maybe smaller."""
    yield from _in_order(part, torch.arange(len(part)), size, input, device)


def shuffled(
    part: Part,
    size: int,
    generator: torch.Generator,
    *,
    input: InputDescription | None,
    device: torch.device,
    augment: str = "none",
) -> Iterator[Batch]:
    """All of `part` in an order, and with augmentation, drawn from `generator`."""
    order = torch.randperm(len(part), generator=generator)
    change = AUGMENTATIONS[augment]
    for inputs, labels in _in_order(part, order, size, input, device):
        yield change(inputs, generator), labels


def normalised(part: Part, input: InputDescription | None) -> Part:
    """The part with its uint8 pictures as the network takes them, when they are in memory."""
    if isinstance(part.inputs, Tensor) and part.inputs.dtype == torch.uint8:
        assert input is not None
        return Part(input.normalise(part.inputs), part.labels)
    return part


def _in_order(
    part: Part, order: Tensor, size: int, input: InputDescription | None, device: torch.device
) -> Iterator[Batch]:
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


def flip(x: Tensor, generator: torch.Generator) -> Tensor:
    """Half of the pictures mirrored left to right."""
    mirrored = torch.rand(len(x), generator=generator).to(x.device) < 0.5
    return torch.where(mirrored.view(-1, 1, 1, 1), x.flip(-1), x)


def crop_and_flip(x: Tensor, generator: torch.Generator) -> Tensor:
    """Moved by up to an eighth of the side, the edge reflected; then `flip`."""
    height, width = x.shape[-2:]
    most = max(1, height // 8), max(1, width // 8)
    padded = torch.nn.functional.pad(x, (most[1], most[1], most[0], most[0]), mode="reflect")
    tops = torch.randint(0, 2 * most[0] + 1, (len(x),), generator=generator).tolist()
    lefts = torch.randint(0, 2 * most[1] + 1, (len(x),), generator=generator).tolist()
    moved = [
        p[:, t : t + height, w : w + width] for p, t, w in zip(padded, tops, lefts, strict=True)
    ]
    return flip(torch.stack(moved), generator)


def _unchanged(x: Tensor, generator: torch.Generator) -> Tensor:
    return x


AUGMENTATIONS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "none": _unchanged,
    "flip": flip,
    "crop+flip": crop_and_flip,
}


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
