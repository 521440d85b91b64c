"""Augmentation: how the examples of a training epoch are moved and mirrored."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class View:
    """How every example of a part looks for once."""

    moved: Tensor | None = None
    """(n, 2) float in [0, 1): down and right, 0.5 being where it was."""

    mirrored: Tensor | None = None
    """(n,) bool: left to right."""

    def __call__(self, x: Tensor, rows: Tensor) -> Tensor:
        """The examples x (n, channels, height, width) of these rows as they look."""
        if self.moved is not None:
            x = _moved(x, self.moved[rows])
        if self.mirrored is not None:
            x = torch.where(self.mirrored[rows].to(x.device).view(-1, 1, 1, 1), x.flip(-1), x)
        return x


def _moved(x: Tensor, by: Tensor) -> Tensor:
    """Moved by up to an eighth of the side, the edge reflected."""
    height, width = x.shape[-2:]
    most = max(1, height // 8), max(1, width // 8)
    padded = torch.nn.functional.pad(x, (most[1], most[1], most[0], most[0]), mode="reflect")
    places = (by * torch.tensor([2 * side + 1 for side in most])).long().tolist()
    parts = [p[:, t : t + height, w : w + width] for p, (t, w) in zip(padded, places, strict=True)]
    return torch.stack(parts)


AUGMENTATIONS = {"none": (), "flip": ("mirrored",), "crop+flip": ("moved", "mirrored")}


def draw_view(augment: str, n: int, generator: torch.Generator) -> View:
    """A view of n examples: half of them mirrored, each moved somewhere."""
    what = AUGMENTATIONS[augment]
    moved = torch.rand(n, 2, generator=generator) if "moved" in what else None
    mirrored = torch.rand(n, generator=generator) < 0.5 if "mirrored" in what else None
    return View(moved, mirrored)
