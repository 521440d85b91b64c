"""Images as a network takes them: the one decoder of folders, predictions and the server."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from autotune.backbones.inputs import InputDescription
from autotune.errors import TaskError, first_line
from autotune.tasks.pixels import depth_of, in_mode, levels_of, on_background

PIXELS = 100_000_000
"""Largest number of pixels of an image, also after it was enlarged.

Pillow warns from 89 million on; a larger image would take over 300 MB while it is decoded.
"""

READERS = 2
"""Threads that decode the images of a folder.

Not tuned: every further thread can hold one more decoded image in memory.
"""

LARGE = 2**24
"""Pixels of an image above which no other such image is decoded at the same time.

Decoding takes up to 20 bytes per pixel, so several of the largest images would fill memory.
"""

_ONE_LARGE = Lock()

_NO_PICTURES = frozenset("BUFR EPS GRIB HDF5 MPEG WMF".split())
"""Formats that Pillow only identifies, or passes on to another program, which is not started."""

PLUGINS = {".heic": "pillow_heif", ".heif": "pillow_heif", ".jxl": "pillow_jxl"}
"""Suffix → library that adds its format to Pillow."""

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


@dataclass(frozen=True)
class Decoded:
    """Decoded image, and facts that its pixels no longer show."""

    pixels: Tensor
    """uint8 or, for grey of more than 8 bits, float32 in 0..1; (channels, height, width)."""

    peak: int = 0
    """Largest value of a grey image with integers of more than 8 bits; 0 for other images."""

    has_frames: bool = False
    """Whether the file has further frames or pages, which are not used."""


@cache
def image_formats() -> frozenset[str]:
    """Names of the formats that are decoded."""
    Image.init()
    _register_plugins()
    return frozenset(Image.OPEN) - _NO_PICTURES


@cache
def image_suffixes() -> frozenset[str]:
    """Suffixes of the formats that are decoded, in lower case."""
    formats, suffixes = image_formats(), Image.registered_extensions()
    return frozenset(suffix for suffix, name in suffixes.items() if name in formats)


def _register_plugins() -> None:
    for library in dict.fromkeys(PLUGINS.values()):
        try:
            plugin = import_module(library)
        except ImportError:
            continue  # its files are left out, and named
        if register := getattr(plugin, "register_heif_opener", None):
            register()


def decode_image(file: Path | BytesIO, input: InputDescription) -> Tensor:
    """Decode an image to uint8 or, if it is deep, float32 in 0..1; (channels, height, width).

    Deep pixels are scaled by their range, transparent ones show the background. The shorter side is
    resized to `resize`, then the image is cropped to `size`. Raises `TaskError` for a file that
    does not decode or is too large.
    """
    try:
        return decoded(file, input).pixels
    except ValueError as error:
        name = repr(str(file)) if isinstance(file, Path) else "this one"
        raise TaskError(f"Every image must decode, {name} does not ({error}).") from error


def decoded(file: Path | BytesIO, input: InputDescription) -> Decoded:
    """Decode an image; `ValueError` with the reason in one line if it cannot be used."""
    try:
        with Image.open(file, formats=sorted(image_formats())) as opened:
            is_large = math.prod(opened.size) > LARGE
            with _ONE_LARGE if is_large else nullcontext(), closing(opened):
                return image_as_taken(opened, input)
    except Exception as error:  # a decoder may raise anything for a damaged file
        reason = first_line(error).replace(str(file), "it")
        raise ValueError("no image" if "cannot identify" in reason else reason) from error


def image_as_taken(opened: Image.Image, input: InputDescription) -> Decoded:
    """An image of Pillow as the network takes it; `ValueError` if its pixels have no range."""
    assert input.size is not None
    _check_size(opened.size, input)
    depth, has_frames = depth_of(opened), _has_frames(opened)
    opened.load()
    upright, peak = _upright(opened), 0
    if depth is not None:
        image, peak = levels_of(upright, depth, input.bits, input.background)
    else:
        visible = on_background(upright, input.background)
        if visible.mode in ("LAB", "HSV"):  # Pillow converts these to colours only
            visible = visible.convert("RGB")
        image = in_mode(visible, "L" if input.channels == 1 else "RGB")
    return Decoded(_channels_first(_fitted(image, input.size, input), input), peak, has_frames)


def _upright(image: Image.Image) -> Image.Image:
    """The image as it was held; the same one, not a copy, if nothing is to be turned."""
    if image.getexif().get(ExifTags.Base.Orientation, 1) == 1:
        return image
    return ImageOps.exif_transpose(image)


def _channels_first(image: Image.Image, input: InputDescription) -> Tensor:
    pixels = np.atleast_3d(np.array(image))
    if image.mode == "F":  # bicubic interpolation leaves the range; grey becomes all channels
        pixels = np.repeat(pixels.clip(0, 1), input.channels, axis=2)
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


def _has_frames(image: Image.Image) -> bool:
    """Whether an image is animated or has pages; a camera's second picture does not count."""
    return image.format != "MPO" and bool(getattr(image, "is_animated", False))


def decode_all(
    files: Sequence[Path], input: InputDescription, *, keep: bool = True
) -> Iterator[Decoded | str]:
    """Decode files in their order; the reason in place of an image that cannot be used.

    Without `keep`, images are empty, for files that do not fit into memory.
    """
    with ThreadPoolExecutor(READERS, "images") as readers:
        yield from readers.map(partial(_tried, input=input, keep=keep), files)


def _tried(file: Path, *, input: InputDescription, keep: bool) -> Decoded | str:
    try:
        image = decoded(file, input)
    except ValueError as error:
        return str(error)
    empty = torch.empty(0, dtype=image.pixels.dtype)
    return image if keep else Decoded(empty, image.peak, image.has_frames)


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


def from_pillow(image: Any, input: InputDescription | None, where: str) -> Tensor:
    """An image of Pillow, of a data set, as the network takes it."""
    if input is None or not input.is_image:
        raise TaskError(
            f"Images of Pillow need a backbone whose image size is known, {where} has some. "
            "Describe it with --input FILE (size, channels, mean, std), or return arrays."
        )
    pixels = image_as_taken(image, input).pixels
    return input.normalised(pixels[None])[0] if pixels.is_floating_point() else pixels
