"""`imagefolder:DIR`: a folder a class, or such folders inside `train`, `val` and `test`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from autotune.backbones.inputs import InputDescription
from autotune.errors import TaskError
from autotune.tasks.base import Task, encode
from autotune.tasks.part import Part

SUFFIXES = frozenset(".jpg .jpeg .png .ppm .bmp .pgm .tif .tiff .webp".split())
IN_MEMORY = 2**30
"""Up to so many bytes of decoded pictures are kept; more are decoded anew in loader processes."""

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


def load(name: str, input: InputDescription | None) -> Task:
    """Pictures in the size of `input`; classes are the names of the folders, sorted."""
    root = Path(name)
    if not root.is_dir():
        raise TaskError(f"An imagefolder: task must be a folder, {name!r} is none.")
    if input is None or not input.is_picture:
        raise TaskError(
            "A folder of pictures needs a backbone whose picture size is known. "
            "Describe it with --input FILE (size, channels, mean, std)."
        )
    split = (root / "train").is_dir()
    classes = _classes(root / "train" if split else root)
    train = _part(root / "train" if split else root, classes, input)
    val = _part(root / "val", classes, input) if split and (root / "val").is_dir() else None
    test = _part(root / "test", classes, input) if split and (root / "test").is_dir() else None
    return Task(f"imagefolder:{name}", train, val, test, tuple(classes))


@dataclass(frozen=True, eq=False)
class Pictures(Sequence[Tensor]):
    """Picture files that are decoded when they are looked at: uint8 (channels, height, width)."""

    files: tuple[Path, ...]
    """Absolute, since a worker may run in another folder."""

    input: InputDescription

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, at: Any) -> Any:
        return decode_picture(self.files[at], self.input)

    def carried(self) -> Sequence[Tensor]:
        """The same pictures, their files' content in memory."""
        contents = tuple(np.fromfile(file, np.uint8) for file in self.files)
        return _Carried(contents, self.input)


@dataclass(frozen=True, eq=False)
class _Carried(Sequence[Tensor]):
    contents: tuple[NDArray[np.uint8], ...]
    input: InputDescription

    def __len__(self) -> int:
        return len(self.contents)

    def __getitem__(self, at: Any) -> Any:
        return decode_picture(BytesIO(self.contents[at].tobytes()), self.input)


PIXELS = 100_000_000
"""Of a picture, also when it is made larger."""


def decode_picture(file: Path | BytesIO, input: InputDescription) -> Tensor:
    """uint8 (channels, height, width): shorter side to `resize`, then the centre of `size`."""
    try:
        with Image.open(file) as opened:
            _check_size(opened.size, input)
            upright = ImageOps.exif_transpose(opened)
            picture = upright.convert("L" if input.channels == 1 else "RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        name = repr(str(file)) if isinstance(file, Path) else "this one"
        reason = str(error).replace(str(file), name)
        raise TaskError(f"Every picture must decode, {name} does not ({reason}).") from error
    assert input.size is not None
    pixels = np.asarray(_fitted(picture, input.size, input), np.uint8)
    return torch.from_numpy(pixels.reshape(*input.size, input.channels).transpose(2, 0, 1).copy())


def _check_size(size: tuple[int, int], input: InputDescription) -> None:
    """Before anything is decoded: neither it, nor it with its short side made longer, is huge."""
    assert input.size is not None
    scale = max(1.0, max(input.resize or 0, *input.size) / min(size))
    if size[0] * size[1] * scale**2 > PIXELS:
        raise ValueError(f"of {size[0]} × {size[1]} pixels it would fill memory")


def _fitted(picture: Image.Image, size: tuple[int, int], input: InputDescription) -> Image.Image:
    height, width = size
    scale = max(
        (input.resize or min(size)) / min(picture.size),
        height / picture.height,
        width / picture.width,
    )
    resized = picture.resize(
        (round(picture.width * scale), round(picture.height * scale)),
        _RESAMPLING[input.interpolation],
    )
    left, top = (resized.width - width) // 2, (resized.height - height) // 2
    return resized.crop((left, top, left + width, top + height))


def _classes(folder: Path) -> list[str]:
    found = sorted(d.name for d in folder.iterdir() if d.is_dir() and _files(d))
    if not found:
        raise _no_pictures(folder)
    return found


def _no_pictures(folder: Path) -> TaskError:
    return TaskError(f"A picture folder needs a folder a class with pictures, {folder} has none.")


def _files(folder: Path) -> list[Path]:
    return sorted(f.absolute() for f in folder.rglob("*") if f.suffix.lower() in SUFFIXES)


def _part(folder: Path, classes: list[str], input: InputDescription) -> Part:
    by_class = {d.name: _files(d) for d in sorted(folder.iterdir()) if d.is_dir()}
    labels = [label for label, files in by_class.items() for _ in files]
    pictures = Pictures(tuple(f for files in by_class.values() for f in files), input)
    if not pictures:
        raise _no_pictures(folder)
    return Part(_kept(pictures), encode(labels, known=classes, source=str(folder)))


def _kept(pictures: Pictures) -> Tensor | Sequence[Tensor]:
    assert pictures.input.size is not None
    height, width = pictures.input.size
    if len(pictures) * height * width * pictures.input.channels > IN_MEMORY:
        return pictures
    return torch.stack([pictures[i] for i in range(len(pictures))])
