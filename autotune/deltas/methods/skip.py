"""Δ-skip: a light convolutional module on the features of a stage."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from autotune.deltas.base import check_size, is_off, scaled
from autotune.deltas.paths import PathDelta, change_at
from autotune.deltas.site import Site


class Skip(PathDelta):
    """h + conv1×1↑(GELU(depthwise3×3(conv1×1↓(h)))), the last convolution zero at the start.

    h are the features of a stage; `width` channels lie in between. At a gate of 0, or detached, the
    stage's output is bit for bit its own. Inspired by Δ-Networks, of which only the abstract was
    available.
    """

    paper = "inspired by Δ-Networks (arXiv 2303.14772)"
    what = "a light module of convolutions on the features"
    where = "stages with height and width"
    inference = "(2 · channels + 9) · width per position"
    on_span = True

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = check_size("skip", "width", width)

    def most(self, site: Site) -> int | None:
        """Number of the stage's channels: the module is no wider than that."""
        return site.exit.width if site.exit is not None else None

    def build(self, site: Site) -> nn.Module | None:
        point = site.exit
        if site.is_network or point is None or not point.is_batched or len(point.places) != 2:
            return None
        return _Light(point.width, self.width, point.channel)

    def hook(self, site: Site) -> list[Any]:
        assert site.exit is not None
        return [change_at(site, site.exit, self._added)]

    def _added(self, h: Tensor) -> Tensor:
        assert self.path is not None
        return h if is_off(self.gate) else h + scaled(self.path(h), self.gate)


class _Light(nn.Module):
    def __init__(self, channels: int, width: int, channel: int) -> None:
        super().__init__()
        self.channel = channel
        self.down = nn.Conv2d(channels, width, 1, bias=False)
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.up = nn.Conv2d(width, channels, 1, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, h: Tensor) -> Tensor:
        x = h.movedim(self.channel, 1)
        output: Tensor = self.up(F.gelu(self.depthwise(self.down(x))))
        return output.movedim(1, self.channel)
