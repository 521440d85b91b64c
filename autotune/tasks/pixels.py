"""Pixels of any depth and transparency as opaque images of 8 bits, or of floats in 0..1."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from autotune.utils.colors import opaque_rgb

DEPTHS = (8, 10, 12, 14, 16, 24, 31, 32)
"""Bits that cameras and programs use for the values of one pixel."""

_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
"""Numbers of TIFF tags."""

_WHITE_IS_ZERO, _UNSIGNED = 0, 1
"""Values of the tags `_PHOTOMETRIC` and `_SAMPLE_FORMAT`."""

_SIXTEEN_BITS = ("PNG", "PPM")
"""Formats of which Pillow may read 16 bits as 32-bit integers."""

_STRIP = 2**20
"""Pixels that are converted at a time. More take more memory, much fewer more time."""

_ROUNDING = 1e-4
"""Distance from 0..1 that float images may have, for values that were interpolated.

It is below half a level of 8 bits, too little to be seen.
"""


@dataclass(frozen=True)
class Depth:
    """Range of the pixels of a grey image that is deeper than 8 bits."""

    bits: int
    """Bits that the file can hold; 0 for floats."""

    is_unsigned: bool = False
    """Whether 32-bit integers, which Pillow reads as signed ones, are unsigned."""

    is_inverted: bool = False
    """Whether 0 is white."""


def depth_of(image: Image.Image) -> Depth | None:
    """Range of an image that was just opened; None for at most 8 bits."""
    if image.mode not in ("F", "I") and not image.mode.startswith("I;16"):
        return None
    tags: Any = getattr(image, "tag_v2", {})
    is_inverted = tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    if image.mode == "F":
        return Depth(0, is_inverted=is_inverted)
    if not tags:
        return Depth(16 if image.mode != "I" or image.format in _SIXTEEN_BITS else 31)
    bits = int(tags.get(_BITS_PER_SAMPLE, (16,))[0])
    is_unsigned = tags.get(_SAMPLE_FORMAT, (_UNSIGNED,))[0] == _UNSIGNED
    return Depth(bits if is_unsigned else bits - 1, is_unsigned, is_inverted)


def depth_that_holds(peak: int) -> int:
    """Smallest usual depth that holds a pixel's value."""
    return next(bits for bits in DEPTHS if peak < 2**bits)


def levels_of(
    image: Image.Image, depth: Depth, bits: int | None, background: str
) -> tuple[Image.Image, int]:
    """A deep grey image with floats from 0, black, to 1, white, and its largest integer.

    `bits` is the depth that the values use, if it is less than the file can hold. Raises
    `ValueError` for values outside their range.
    """
    values, peak, largest = np.asarray(image), 0, 1
    if depth.bits == 0:
        _check_floats(values)
    else:
        values = values.view(np.uint32) if depth.is_unsigned and image.mode == "I" else values
        used = min(bits or depth.bits, depth.bits)
        peak, largest = _checked_peak(values, used), 2**used - 1
    key = image.info.get("transparency")
    levels = np.empty(values.shape, np.float32)
    for rows in _strips(image.size):
        strip = values[rows] / largest if largest > 1 else values[rows].clip(0, 1)
        strip = 1 - strip if depth.is_inverted else strip
        is_key = isinstance(key, int) and values[rows] == key
        levels[rows] = np.where(is_key, _brightness(background), strip)
    return Image.fromarray(levels), peak


def _strips(size: tuple[int, int]) -> Iterator[slice]:
    """Rows of an image by parts of about a million pixels, so that copies need little memory."""
    width, height = size
    n_rows = max(1, _STRIP // width)
    for top in range(0, height, n_rows):
        yield slice(top, min(top + n_rows, height))


def _brightness(color: str) -> float:
    pixel: Any = Image.new("RGB", (1, 1), opaque_rgb(color)).convert("L").getpixel((0, 0))
    return float(pixel) / 255


def _check_floats(values: NDArray[Any]) -> None:
    low, high = float(values.min()), float(values.max())
    if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):  # also true for NaN
        raise ValueError(f"float pixels must be in 0..1, these are in {low:g}..{high:g}")


def _checked_peak(values: NDArray[Any], bits: int) -> int:
    low, high = int(values.min()), int(values.max())
    if low < 0:
        raise ValueError(f"integer pixels must be at least 0, these begin at {low:,}")
    if high >= 2**bits:
        raise ValueError(f"pixels of {bits} bits are below {2**bits:,}, these reach {high:,}")
    return high


def on_background(image: Image.Image, background: str) -> Image.Image:
    """The image on a colour where it is transparent; images without transparency as they are."""
    if not _has_alpha(image):
        return image
    opaque = Image.new("RGB", image.size)
    for rows in _strips(image.size):
        strip = image.crop((0, rows.start, image.width, rows.stop))
        straight = strip.convert("LA") if strip.mode == "La" else strip
        color = Image.new("RGBA", strip.size, (*opaque_rgb(background), 255))
        opaque.paste(Image.alpha_composite(color, straight.convert("RGBA")), (0, rows.start))
    return opaque


def in_mode(image: Image.Image, mode: str) -> Image.Image:
    """The image in a mode; the same one, not a copy, if it is in this mode."""
    return image if image.mode == mode else image.convert(mode)


def _has_alpha(image: Image.Image) -> bool:
    palette: Any = getattr(image, "palette", None)
    return (
        image.mode in ("LA", "La", "PA", "RGBA", "RGBa")
        or "transparency" in image.info
        or (palette is not None and str(palette.mode).endswith("A"))
    )
