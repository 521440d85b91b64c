"""Res-Adapter: a bottleneck in parallel to attention, feed-forward, or a whole block."""

from __future__ import annotations

from typing import Any

from torch import nn

from autotune.backbones.dataflow import Point
from autotune.deltas.base import check_size, check_word, is_off, scaled
from autotune.deltas.bottleneck import Bottleneck
from autotune.deltas.paths import PathDelta, change_at
from autotune.deltas.site import Site

_AT = {"attention": "attention", "mlp": "mlp"}


class ResAdapter(PathDelta):
    """OP(x) + GELU(OP(x)·W_down)·W_up, W_up zero at start.

    OP is the block, its attention or its feed-forward part; `width` channels in between.
    """

    paper = "Res-Tuning (arXiv 2310.19859)"
    what = "a bottleneck in parallel to attention, `mlp` or the block"
    where = "units; attention and mlp of transformers"
    nests = "width"
    inference = "2 · channels · width per position"

    def __init__(self, width: int, at: str = "block") -> None:
        super().__init__()
        self.width = check_size("res_adapter", "width", width)
        self.at = check_word("res_adapter", "at", at, ("block", *_AT))

    def most(self, site: Site) -> int | None:
        """Smallest number of channels it meets: a bottleneck is no wider than that."""
        return min((point.width for point in self._points(site)), default=None)

    def build(self, site: Site) -> nn.Module | None:
        points = self._points(site)
        if not points:
            return None
        return nn.ModuleList(Bottleneck(p.width, self.width, p.width, p.channel) for p in points)

    def hook(self, site: Site) -> list[Any]:
        assert isinstance(self.path, nn.ModuleList)
        pairs = zip(self._points(site), self.path, strict=True)
        return [change_at(site, point, self._added(adapter)) for point, adapter in pairs]

    def _added(self, adapter: nn.Module) -> Any:
        return lambda y: y if is_off(self.gate) else y + scaled(adapter(y), self.gate)

    def _points(self, site: Site) -> list[Point]:
        if self.at == "block":
            return [site.exit] if site.exit else []
        return [call.output for call in site.parts(_AT[self.at]) if call.output]
