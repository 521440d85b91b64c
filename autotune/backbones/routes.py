"""Routes: the modules that hold only certain parameters, with their joint input and output."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from torch import nn

from autotune.backbones.dataflow import Call, Flow, Point

_PARAMETRIZED = re.compile(r"parametrizations\.([^.]+)\.original$")
"""End of the name of a parameter that is parametrized."""


@dataclass(frozen=True)
class Route:
    """Some modules, from the input of the first to the output of the last."""

    calls: tuple[Call, ...] = ()
    """Calls of every module that holds only the parameters, in the order in which they begin."""

    outer: tuple[Call, ...] = ()
    """Calls of the outermost of these modules."""

    @property
    def entry(self) -> Point | None:
        return self.outer[0].input if self.outer else None

    @property
    def end(self) -> int:
        """Place of the exit in the order in which calls end."""
        return self.outer[-1].end if self.outer else 0

    @property
    def exit(self) -> Point | None:
        return self.outer[-1].output if self.outer else None


class Routes:
    """Finds the route through the modules that hold a set of parameters.

    Modules without parameters are on no route.
    """

    def __init__(self, network: nn.Module, flow: Flow | None) -> None:
        named = [(n, id(p)) for n, p in network.named_parameters(remove_duplicate=False)]
        # a head that trains in another precision than it computes in is parametrized
        self.ids = {_PARAMETRIZED.sub(r"\1", n): i for n, i in named} | dict(named)
        self.modules = dict(network.named_modules())
        # a head of another class than in the recorded pass has other modules inside
        calls = [call for call in flow or () if call.path in self.modules]
        held = [(call, _held(self.modules[call.path])) for call in calls]
        self.held = [(call, ids) for call, ids in held if ids]

    def through(self, parameters: Collection[str]) -> Route:
        """Route through the modules that hold only `parameters`, named alone or by their module."""
        wanted = {id for name in parameters for id in self._ids(name)}
        calls = [call for call, ids in self.held if ids <= wanted]
        paths = {call.path for call in calls}
        return Route(tuple(calls), tuple(c for c in calls if not _has_parent(c.path, paths)))

    def _ids(self, name: str) -> frozenset[int]:
        return frozenset([self.ids[name]]) if name in self.ids else _held(self.modules[name])


def _held(module: nn.Module) -> frozenset[int]:
    return frozenset(id(parameter) for parameter in module.parameters())


def _has_parent(path: str, paths: set[str]) -> bool:
    parts = path.split(".")
    return any(".".join(parts[:n]) in paths for n in range(len(parts))) and path != ""
