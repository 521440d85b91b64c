"""Res-Tuning-Bypass: a trained path in parallel to the whole frozen network."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autotune.backbones.dataflow import Point
from autotune.backbones.precision import widened
from autotune.deltas.base import check_size, is_off, scaled
from autotune.deltas.bottleneck import Bottleneck, as_channels, as_places
from autotune.deltas.paths import PathDelta, change_at, look_at
from autotune.deltas.site import Site


class Bypass(PathDelta):
    """d_l = λ_l·A_l(x_l) + (1-λ_l)·(d_{l-1} + V_l(x_{l-1} + d_{l-1})); the head reads x_L + d_L.

    x_l is the output of level l of the frozen network (a stage or transformer block; for the last
    l, the head's input), A_l and V_l are bottlenecks of `width` channels on normalised features,
    λ_l is learned. d is the deviation from the backbone's own features, so that it is zero at the
    start; the paper's recursion carries the features themselves. No gradient enters the backbone.
    """

    paper = "Res-Tuning (arXiv 2310.19859)"
    what = "a path in parallel to all stages or blocks, read by the head"
    where = "the network, alone in its plan"
    inference = "4 · channels · width per position and level"
    on_span = True
    goes_alone = True

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = check_size("bypass", "width", width)

    def build(self, site: Site) -> nn.Module | None:
        if not site.is_network or site.exit is None or not site.levels:
            return None
        points = [*site.levels, site.exit]
        return _Ladder(points, self.width) if all(p.is_batched for p in points) else None

    def hook(self, site: Site) -> list[Any]:
        assert isinstance(self.path, _Ladder) and site.exit is not None
        at_levels = [
            look_at(site, point, self._seen(level)) for level, point in enumerate(site.levels)
        ]
        return [*at_levels, change_at(site, site.exit, self._added)]

    def _seen(self, level: int) -> Any:
        def keep(x: Tensor) -> None:
            if not is_off(self.gate):
                assert isinstance(self.path, _Ladder)
                before = self._state if level else None
                self._state = self.path.climb(level, x.detach().clone(), before)

        return keep

    def _added(self, x: Tensor) -> Tensor:
        if is_off(self.gate):
            return x
        assert isinstance(self.path, _Ladder)
        last, self._state = self._state, None
        frozen = x.detach()
        _, deviation = self.path.climb(len(self.path.lateral) - 1, frozen, last)
        channel = self.path.points[-1].channel
        return frozen + scaled(deviation.movedim(-1, channel), self.gate)

    _state: tuple[Tensor, Tensor] | None = None


class _Ladder(nn.Module):
    def __init__(self, points: list[Point], width: int) -> None:
        super().__init__()
        self.points = points
        sizes = [point.width for point in points]
        self.lateral = nn.ModuleList(Bottleneck(c, width, c, -1) for c in sizes)
        risen = [Bottleneck(a, width, b, -1) for a, b in pairwise(sizes)]
        self.vertical = nn.ModuleList(risen)
        self.share = nn.Parameter(torch.zeros(len(points) - 1))

    def climb(
        self, level: int, x: Tensor, before: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        """(x_l, d_l), channels last, from the level's features and the pair of the level before."""
        point = self.points[level]
        x = x.movedim(point.channel, -1)
        features = self.lateral[level](_normalised(x))
        if before is None:
            return x, features
        # a level below may lie inside a block of autocast, and this one outside
        lower, deviation = (as_places(widened(t), -1, point.places) for t in before)
        risen = self.vertical[level - 1](_normalised(lower + deviation))
        share = torch.sigmoid(self.share[level - 1])
        carried = as_channels(deviation, point.width)
        return x, share * features + (1 - share) * (carried + risen)


def _normalised(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:])
