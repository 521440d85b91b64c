"""Colours by name or hexadecimal number."""

from __future__ import annotations

WHITE = "white"


def opaque_rgb(color: str) -> tuple[int, int, int]:
    """Red, green and blue of a colour as Pillow reads it; `ValueError` for any other text."""
    if color == WHITE:
        return 255, 255, 255
    from PIL import ImageColor

    try:
        values = ImageColor.getrgb(color)
    except ValueError as error:
        raise ValueError(
            f"a colour is a name such as white, or hexadecimal such as #ffffff, got {color!r}"
        ) from error
    if len(values) != 3:
        raise ValueError(f"a background is opaque, got {color!r} with an alpha value")
    red, green, blue = values
    return red, green, blue
