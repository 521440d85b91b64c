"""Spans: each stage and the whole network, for methods that add a path in parallel to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from autotune.backbones.base import Backbone
from autotune.backbones.dataflow import Flow
from autotune.backbones.routes import Routes
from autotune.backbones.units import Unit, Units, find_groups, find_units
from autotune.problem.search_space import UnitPatterns as Tables

NETWORK = "network"
"""Name of the span of the whole network, from its input to its head's input."""


def with_spans(backbone: Backbone, units: Units, tables: Tables, flow: Flow) -> Units:
    """Append every stage and the whole network to the units as spans, and keep the flow.

    The network's levels are its stages if the shapes of their outputs differ (convolutions), else
    the blocks inside them (transformers); the head comes last.
    """
    whole = replace(backbone, protected={})  # paths change no weight
    stages = find_groups(whole, tables.stage)
    taken = {unit.name for unit in units.units}
    spans = [Unit(name, (), (names,)) for name, names in stages.items() if name not in taken]
    blocks = find_units(whole, tables.block).units
    routes = Routes(backbone.network, flow)
    if NETWORK not in taken and (levels := _levels(stages, blocks, routes)):
        spans.append(Unit(NETWORK, (), (*levels, tuple(_head(backbone)))))
    return replace(units, units=(*units.units, *spans), flow=flow)


def _levels(
    stages: Mapping[str, tuple[str, ...]], blocks: tuple[Unit, ...], routes: Routes
) -> list[tuple[str, ...]]:
    """Levels in the order of computation, in which modules need not be registered."""
    ends = {names: routes.through(names).exit for names in stages.values()}
    if len({point.shape for point in ends.values() if point}) > 1:
        return _in_order([names for names, point in ends.items() if point], routes)
    staged = {name for names in stages.values() for name in names}
    inside = [b.parameters for b in blocks if not staged or staged.issuperset(b.parameters)]
    return _in_order([names for names in inside if routes.through(names).exit], routes)


def _in_order(levels: list[tuple[str, ...]], routes: Routes) -> list[tuple[str, ...]]:
    return sorted(levels, key=lambda names: routes.through(names).end)


def _head(backbone: Backbone) -> list[str]:
    """Names of the head's parameters, or of the head if new ones may have others."""
    if backbone.opaque_head is not None:
        return [backbone.head]
    head = backbone.network.get_submodule(backbone.head)
    return [f"{backbone.head}.{name}" for name, _ in head.named_parameters()]
