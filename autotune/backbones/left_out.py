"""Parts of a network that a search leaves out, each with the reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn

from autotune.backbones.base import Backbone

UNUSED, FROZEN, EXCLUDED, NO_FLOAT = "unused", "frozen", "excluded", "no float"
SWAPPED = "replaced by the network's own code"
"""Reasons; unused parameters are no part of the 100 %, the others are."""


@dataclass(frozen=True)
class LeftOut:
    """A module or parameter that is never changed."""

    name: str
    reason: str
    parameters: int


def left_out(backbone: Backbone) -> tuple[LeftOut, ...]:
    """The outermost modules and the parameters that are left out, in the order of registration."""
    prefix = backbone.head + "."
    named = dict(backbone.network.named_parameters())
    reasons = {name: reason for name in named if (reason := _reason(backbone, name))}
    counted = {name: p.numel() for name, p in named.items() if not name.startswith(prefix)}
    return tuple(_parts(backbone.network, "", reasons, counted))


def _reason(backbone: Backbone, name: str) -> str:
    if name in backbone.unused:
        return UNUSED
    if name in backbone.protected:
        return backbone.protected[name]
    return "" if name in backbone.tunable() or name.startswith(backbone.head + ".") else NO_FLOAT


def _parts(
    module: nn.Module, path: str, reasons: Mapping[str, str], counted: Mapping[str, int]
) -> Iterator[LeftOut]:
    start = f"{path}." if path else ""
    inside = [name for name in counted if name.startswith(start)]
    common = {reasons.get(name, "") for name in inside}
    if len(common) == 1 and path:
        (reason,) = common
        if reason:
            yield LeftOut(path, reason, sum(counted[name] for name in inside))
        return
    for name, _ in module.named_parameters(recurse=False):
        if reason := reasons.get(start + name, ""):
            yield LeftOut(start + name, reason, counted[start + name])
    for name, child in module.named_children():
        yield from _parts(child, start + name, reasons, counted)
