"""Augmentation: random shifts and flips of the images of a training epoch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class View:
    """One random shift and flip for every example of a part."""

    shifts: Tensor | None = None
    """(n, 2) floats in [0, 1): shift down and right; 0.5 means no shift."""

    flips: Tensor | None = None
    """(n,) booleans: whether the image is mirrored left to right."""

    def __call__(self, x: Tensor, rows: Tensor) -> Tensor:
        """Shift and flip the examples x (n, channels, height, width) of these rows."""
        if self.shifts is not None:
            x = _shifted(x, self.shifts[rows])
        if self.flips is not None:
            x = torch.where(self.flips[rows].to(x.device).view(-1, 1, 1, 1), x.flip(-1), x)
        return x


SHIFT_DIVISOR = 8
"""Images are shifted by up to 1/8 of their side: 4 of 32 pixels, as is usual for CIFAR."""


def _shifted(x: Tensor, shifts: Tensor) -> Tensor:
    """Shift images, with reflected pixels beyond their borders."""
    height, width = x.shape[-2:]
    most = max(1, height // SHIFT_DIVISOR), max(1, width // SHIFT_DIVISOR)
    padded = torch.nn.functional.pad(x, (most[1], most[1], most[0], most[0]), mode="reflect")
    corners = (shifts * torch.tensor([2 * side + 1 for side in most])).long().tolist()
    crops = [
        image[:, top : top + height, left : left + width]
        for image, (top, left) in zip(padded, corners, strict=True)
    ]
    return torch.stack(crops)


AUGMENTATIONS = {"none": (), "flip": ("flips",), "crop+flip": ("shifts", "flips")}
"""Name of an augmentation → fields of `View` that it draws."""


def draw_view(augment: str, n: int, generator: torch.Generator) -> View:
    """Random view of n examples, drawn from `generator`."""
    parts = AUGMENTATIONS[augment]
    shifts = torch.rand(n, 2, generator=generator) if "shifts" in parts else None
    flips = torch.rand(n, generator=generator) < 0.5 if "flips" in parts else None
    return View(shifts, flips)
