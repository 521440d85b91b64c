"""Units: a network's parameters cut into named, depth-ordered parts that a plan decides on."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from torch import nn

from autotune.backbones.base import Backbone
from autotune.backbones.dataflow import Flow
from autotune.backbones.layer_names import layer_name, tensor_name
from autotune.errors import SpaceError
from autotune.utils.patterns import match_starts


@dataclass(frozen=True)
class Unit:
    """Smallest part that a plan decides on; with levels and no parameters of its own, a span."""

    name: str
    parameters: tuple[str, ...]
    """Names in the network, in the order of registration; tied parameters appear once."""

    levels: tuple[tuple[str, ...], ...] = ()
    """Names of the parameters in each level of a span: one for a stage, several for the network."""

    def is_span(self) -> bool:
        return bool(self.levels)

    def layers(self) -> tuple[str, ...]:
        """Paths of the modules that hold the parameters, each once."""
        return tuple(dict.fromkeys(map(layer_name, self.parameters)))


@dataclass(frozen=True)
class Match:
    """Number of modules and parameters that one pattern of a layer-group table matched."""

    pattern: str
    expression: str
    units: int
    modules: int
    parameters: int


@dataclass(frozen=True)
class Units:
    """All units of a backbone in depth order, followed by its spans, and the match table."""

    units: tuple[Unit, ...]
    matches: tuple[Match, ...]
    flow: Flow | None = None
    """Tensors between modules; None if the input is unknown, which leaves no place for paths."""

    def __iter__(self) -> Iterator[Unit]:
        return iter(self.units)

    def __getitem__(self, name: str) -> Unit:
        return next(unit for unit in self.units if unit.name == name)


def find_units(
    backbone: Backbone, patterns: Mapping[str, str] | str, *, granularity: str = "block"
) -> Units:
    """Cut a backbone into units by a layer-group table or, for the word `tree`, its module tree.

    Raises `SpaceError` for a pattern that matches nothing, or a parameter that may change and that
    no pattern matches.
    """
    if isinstance(patterns, str):
        return _from_tree(backbone, by_layer=granularity == "layer")
    pattern_of = _first_matches(backbone.parameters(), patterns)
    _refuse_unused(pattern_of, patterns)
    sizes = {name: p.numel() for name, p in backbone.tunable().items()}
    pattern_of = {name: pattern_of[name] for name in sizes}
    _refuse_gaps(pattern_of)
    grouped = _group((unit, name) for name, (_, unit) in pattern_of.items())
    return Units(grouped, tuple(_match(p, e, pattern_of, sizes) for p, e in patterns.items()))


def find_groups(
    backbone: Backbone, patterns: Mapping[str, str] | str
) -> dict[str, tuple[str, ...]]:
    """Stage's name → its parameters; a parameter may be in no stage.

    Stages come from patterns as in `find_units` (`SpaceError` for one that matches nothing) or, for
    the word `tree`, are the innermost containers of the module tree with at least two units.
    """
    if isinstance(patterns, str):
        return _containers(backbone)
    pattern_of = _first_matches(backbone.parameters(), patterns)
    _refuse_unused(pattern_of, patterns)
    pairs = [(stage, name) for name, (pattern, stage) in pattern_of.items() if pattern]
    return {group.name: group.parameters for group in _group(pairs)}


def _containers(backbone: Backbone) -> dict[str, tuple[str, ...]]:
    units = _from_tree(backbone, by_layer=False).units
    held = Counter(path for unit in units for path in _above(unit.name))
    inside: dict[str, list[str]] = {}
    for unit in units:
        if around := next((path for path in _above(unit.name) if held[path] > 1), None):
            inside.setdefault(around, []).extend(unit.parameters)
    return {path: tuple(names) for path, names in inside.items()}


def _above(path: str) -> list[str]:
    """Paths of a module's ancestors, from the innermost outwards, without the network."""
    parts = path.split(".")
    return [".".join(parts[:n]) for n in range(len(parts) - 1, 0, -1)]


def _first_matches(names: Iterable[str], patterns: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Parameter → its pattern and the name of its unit, both empty if no pattern matches."""
    pattern_of = dict.fromkeys(names, ("", ""))
    for pattern, expression in patterns.items():
        left = [name for name, (taken, _) in pattern_of.items() if not taken]
        matches = _matches(pattern, expression, left)
        for name in left:
            if match := matches.get(tensor_name(name)):
                pattern_of[name] = pattern, (match[1] if match.re.groups else "") or pattern
    return pattern_of


def _matches(pattern: str, expression: str, names: Iterable[str]) -> Mapping[str, re.Match[str]]:
    try:
        return match_starts(expression, map(tensor_name, names))
    except ValueError as error:
        raise SpaceError(
            f"A pattern must be a regular expression that is fast, {pattern!r} is not: {error}. "
            "Correct it, or choose another --space."
        ) from error


def _refuse_unused(pattern_of: Mapping[str, tuple[str, str]], patterns: Mapping[str, str]) -> None:
    used = {pattern for pattern, _ in pattern_of.values()}
    for pattern, expression in patterns.items():
        if pattern not in used:
            raise SpaceError(
                f"Every pattern must match a parameter, {pattern!r} ({expression}) matches none. "
                "Correct it, or choose another --space."
            )


def _refuse_gaps(pattern_of: Mapping[str, tuple[str, str]]) -> None:
    if missed := [name for name, (pattern, _) in pattern_of.items() if not pattern]:
        raise SpaceError(
            f"Every parameter must be in a unit, {len(missed)} are in none, first {missed[0]!r}. "
            "Add a pattern, leave it out with --exclude, or choose another --space."
        )


def _group(pairs: Iterable[tuple[str, str]]) -> tuple[Unit, ...]:
    names: dict[str, list[str]] = {}
    for unit, parameter in pairs:
        names.setdefault(unit, []).append(parameter)
    return tuple(Unit(unit, tuple(parameters)) for unit, parameters in names.items())


def _match(
    pattern: str,
    expression: str,
    pattern_of: Mapping[str, tuple[str, str]],
    sizes: Mapping[str, int],
) -> Match:
    unit_by_name = {name: unit for name, (p, unit) in pattern_of.items() if p == pattern}
    modules = set(map(layer_name, unit_by_name))
    total = sum(sizes[name] for name in unit_by_name)
    return Match(pattern, expression, len(set(unit_by_name.values())), len(modules), total)


def _from_tree(backbone: Backbone, *, by_layer: bool) -> Units:
    parameters = backbone.tunable()
    total = sum(p.numel() for p in parameters.values())
    modules = dict(backbone.network.named_modules())
    pairs: list[tuple[str, str]] = []
    for name in parameters:
        unit = (
            (layer_name(name) or tensor_name(name)) if by_layer else _block_of(name, modules, total)
        )
        if pairs and not by_layer and _continues(pairs[-1][0], unit, modules):
            unit = pairs[-1][0]
        pairs.append((unit, name))
    units = _group(pairs)
    layers = set(map(layer_name, parameters))
    return Units(units, (Match("tree", "module tree", len(units), len(layers), total),))


def _block_of(name: str, modules: Mapping[str, nn.Module], total: int) -> str:
    """Outermost module above a parameter that is no container and not most of the network."""
    parts = tensor_name(name).split(".")[:-1]
    for depth in range(1, len(parts) + 1):
        path = ".".join(parts[:depth])
        if not _is_opened(modules[path], total):
            return path
    return tensor_name(name)


def _is_opened(module: nn.Module, total: int) -> bool:
    if isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
        return True
    return not _is_lone(module) and 2 * sum(p.numel() for p in module.parameters()) > total


def _is_lone(module: nn.Module) -> bool:
    return all(name == "parametrizations" for name, _ in module.named_children())


def _continues(before: str, unit: str, modules: Mapping[str, nn.Module]) -> bool:
    """Whether `unit` is a norm without children right after its sibling `before`, also a leaf."""
    if before == unit or before.rpartition(".")[0] != unit.rpartition(".")[0]:
        return False
    if before not in modules or unit not in modules:
        return False
    lone = _is_lone(modules[before]) and _is_lone(modules[unit])
    return lone and is_norm(modules[unit])


def is_norm(module: nn.Module) -> bool:
    """Whether a layer normalises: its class is named so, and its parameters are vectors."""
    vectors = all(p.ndim == 1 for p in module.parameters(recurse=False))
    return vectors and "norm" in type(module).__name__.lower()
