"""`imagefolder:DIR`: one folder per class, or such folders inside `train`, `val` and `test`."""

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
"""Bytes of decoded images of a part that are kept in memory, 1 GiB; larger parts are decoded by
loader processes in every pass.

Not tuned: three parts of this size still fit into a laptop's memory.
"""

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


def load(name: str, input: InputDescription | None) -> Task:
    """Load images in the size of `input`; classes are the sorted names of the folders."""
    root = Path(name)
    if not root.is_dir():
        raise TaskError(f"An imagefolder: task must be a folder, {name!r} is not.")
    if input is None or not input.is_image:
        raise TaskError(
            "A folder of images needs a backbone whose image size is known. "
            "Describe it with --input FILE (size, channels, mean, std)."
        )
    is_split = (root / "train").is_dir()
    classes = _classes(root / "train" if is_split else root)
    train = _part(root / "train" if is_split else root, classes, input)
    val = _part(root / "val", classes, input) if is_split and (root / "val").is_dir() else None
    test = _part(root / "test", classes, input) if is_split and (root / "test").is_dir() else None
    return Task(f"imagefolder:{name}", train, val, test, tuple(classes))


@dataclass(frozen=True, eq=False)
class ImageFiles(Sequence[Tensor]):
    """Image files, decoded on access to uint8 (channels, height, width)."""

    files: tuple[Path, ...]
    """Absolute paths, since a worker may run in another folder."""

    input: InputDescription

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, at: Any) -> Any:
        return decode_image(self.files[at], self.input)

    def carried(self) -> Sequence[Tensor]:
        """The same images with the content of their files in memory."""
        contents = tuple(np.fromfile(file, np.uint8) for file in self.files)
        return _EncodedImages(contents, self.input)


@dataclass(frozen=True, eq=False)
class _EncodedImages(Sequence[Tensor]):
    """Content of image files, decoded on access."""

    contents: tuple[NDArray[np.uint8], ...]
    input: InputDescription

    def __len__(self) -> int:
        return len(self.contents)

    def __getitem__(self, at: Any) -> Any:
        return decode_image(BytesIO(self.contents[at].tobytes()), self.input)


PIXELS = 100_000_000
"""Largest number of pixels of an image, also after it was enlarged.

Pillow warns from 89 million on; a larger image would take over 300 MB while it is decoded.
"""


def decode_image(file: Path | BytesIO, input: InputDescription) -> Tensor:
    """Decode an image to uint8 (channels, height, width).

    Its shorter side is resized to `resize`, then it is cropped to `size`. Raises `TaskError` for a
    file that does not decode or is too large.
    """
    try:
        with Image.open(file) as opened:
            _check_size(opened.size, input)
            upright = ImageOps.exif_transpose(opened)
            image = upright.convert("L" if input.channels == 1 else "RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        name = repr(str(file)) if isinstance(file, Path) else "this one"
        reason = str(error).replace(str(file), name)
        raise TaskError(f"Every image must decode, {name} does not ({reason}).") from error
    assert input.size is not None
    pixels = np.asarray(_fitted(image, input.size, input), np.uint8)
    return torch.from_numpy(pixels.reshape(*input.size, input.channels).transpose(2, 0, 1).copy())


def _check_size(size: tuple[int, int], input: InputDescription) -> None:
    """Raise `ValueError` for an image that is huge, or would be once its short side is enlarged."""
    assert input.size is not None
    scale = max(1.0, max(input.resize or 0, *input.size) / min(size))
    if size[0] * size[1] * scale**2 > PIXELS:
        raise ValueError(f"its {size[0]} × {size[1]} pixels would fill memory")


def _fitted(image: Image.Image, size: tuple[int, int], input: InputDescription) -> Image.Image:
    height, width = size
    scale = max(
        (input.resize or min(size)) / min(image.size),
        height / image.height,
        width / image.width,
    )
    resized = image.resize(
        (round(image.width * scale), round(image.height * scale)),
        _RESAMPLING[input.interpolation],
    )
    left, top = (resized.width - width) // 2, (resized.height - height) // 2
    return resized.crop((left, top, left + width, top + height))


def _classes(folder: Path) -> list[str]:
    classes = sorted(d.name for d in folder.iterdir() if d.is_dir() and _files(d))
    if not classes:
        raise _no_images(folder)
    return classes


def _no_images(folder: Path) -> TaskError:
    return TaskError(f"An image folder needs one folder of images per class, {folder} has none.")


def _files(folder: Path) -> list[Path]:
    return sorted(f.absolute() for f in folder.rglob("*") if f.suffix.lower() in SUFFIXES)


def _part(folder: Path, classes: list[str], input: InputDescription) -> Part:
    by_class = {d.name: _files(d) for d in sorted(folder.iterdir()) if d.is_dir()}
    labels = [label for label, files in by_class.items() for _ in files]
    images = ImageFiles(tuple(f for files in by_class.values() for f in files), input)
    if not images:
        raise _no_images(folder)
    return Part(_kept(images), encode(labels, known=classes, source=str(folder)))


def _kept(images: ImageFiles) -> Tensor | Sequence[Tensor]:
    """The decoded images if they fit into memory, otherwise their files."""
    assert images.input.size is not None
    height, width = images.input.size
    if len(images) * height * width * images.input.channels > IN_MEMORY:
        return images
    return torch.stack([images[i] for i in range(len(images))])
