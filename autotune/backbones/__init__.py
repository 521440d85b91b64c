"""Backbones: pretrained networks by name. Each source is a file and a line of this table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autotune.errors import UnknownName, unknown
from autotune.utils.lazy_names import lazy_names
from autotune.utils.registry import Registry

if TYPE_CHECKING:
    from autotune.backbones.base import Backbone as Backbone
    from autotune.backbones.base import describe as describe
    from autotune.backbones.inputs import InputDescription as InputDescription
    from autotune.backbones.units import Unit as Unit
    from autotune.backbones.units import find_units as find_units

_HOMES = {
    "Backbone": "base",
    "InputDescription": "inputs",
    "Unit": "units",
    "describe": "base",
    "find_units": "units",
}

__all__ = ["SOURCES", "load_backbone", *sorted(_HOMES)]
__getattr__ = lazy_names(__name__, _HOMES)

SOURCES = Registry(
    "backbone source",
    {
        "builtin": "autotune.backbones.sources.digits:load",
        "torchvision": "autotune.backbones.sources.torchvision:load",
        "python": "autotune.backbones.sources.python:load",
    },
    reserved={
        "timm": "Build the network in a python: source, python:FILE:FUNCTION.",
        "hf": "Build the network in a python: source, python:FILE:FUNCTION.",
    },
)


def load_backbone(
    source: str,
    *,
    weights: str | None = None,
    head: str | None = None,
    input: InputDescription | None = None,
    shapes_only: bool = False,
) -> Backbone:
    """Load the backbone of a source, `KIND:REST`, in evaluation mode.

    `weights` is a file that replaces the published weights (`none`: random ones), `head` the path
    of the task layer if it is not the last layer, and `input` the input description if the source
    has none or another is wanted. `shapes_only` may leave the weights on the meta device.

    Raises `UnknownName` for an unknown kind or name, `BackboneError` for weights that don't fit.
    """
    kind, colon, rest = source.partition(":")
    if not colon:
        known = [f"{name}:..." for name in SOURCES.names()]
        raise UnknownName(unknown("backbone", source, [*known, "builtin:digits"]))
    load = SOURCES.load(kind)
    backbone: Backbone = load(
        rest, weights=weights, head=head, input=input, shapes_only=shapes_only
    )
    backbone.network.eval()
    return backbone
