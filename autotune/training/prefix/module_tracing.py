"""Tracing by modules: layers are nodes, and so is what passes into and out of every module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import fx, nn

from autotune.training.prefix.nodes import NETWORK, Untraceable, end_of, given, taken


@dataclass(frozen=True)
class Traced:
    """A graph of a root, and what is to be known of it."""

    graph: fx.Graph
    heeding: frozenset[str]
    """Containers whose code asks for their mode; the graph is that of evaluation."""

    untraced: tuple[str, ...] = ()
    """Containers that are single nodes, as their own code cannot be traced."""


def trace_modules(root: nn.Module) -> Traced:
    """Again and again, what cannot be traced, or asks for its mode, as one node from then on."""
    untraced: list[str] = []
    asking: list[str] = []
    while True:
        tracer = _Tracer(root, [*untraced, *asking])
        try:
            with noticing(root) as heeding:
                graph = tracer.trace(root)
        except Exception as error:
            if tracer.inside in ([], [NETWORK]):
                raise Untraceable.by(error) from error
            untraced.append(tracer.inside[-1])
            continue
        end_of(graph)
        if not heeding - {NETWORK}:
            return Traced(graph, frozenset(heeding), tuple(untraced))
        asking += sorted(heeding - {NETWORK})


class _Tracer(fx.Tracer):
    def __init__(self, root: nn.Module, opaque: list[str]) -> None:
        super().__init__()
        self.opaque = {root.get_submodule(path) for path in opaque}
        self.paths = {module: path for path, module in root.named_modules()}
        self.inside: list[str] = []

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if m in self.opaque or next(m.children(), None) is None:
            return True
        return m.__module__.startswith("torch.nn") and not isinstance(m, nn.Sequential)

    def path_of_module(self, mod: nn.Module) -> str:
        path: str = self.paths[mod]
        return path

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        path = self.path_of_module(m)
        self.inside.append(path)
        if args:
            args = (self._passed(taken, args[0], path), *args[1:])
        elif kwargs:
            first = next(iter(kwargs))
            kwargs = {**kwargs, first: self._passed(taken, kwargs[first], path)}
        found = super().call_module(m, forward, args, kwargs)
        if isinstance(found, tuple) and found:
            found = (self._passed(given, found[0], path), *found[1:])
        else:
            found = self._passed(given, found, path)
        self.inside.pop()
        return found

    def _passed(self, function: Any, value: Any, path: str) -> Any:
        if not isinstance(value, fx.Proxy):
            return value
        return self.create_proxy("call_function", function, (value, path), {})


@contextmanager
def noticing(root: nn.Module) -> Iterator[set[str]]:
    """Paths of containers whose code asks for their mode, while inside."""
    asked: set[str] = set()
    containers = [(p, m) for p, m in root.named_modules() if next(m.children(), None)]
    classes = [(module, type(module)) for _, module in containers]
    for path, module in containers:
        module.__class__ = _listening(type(module), partial(asked.add, path))
    try:
        yield asked
    finally:
        for module, own in classes:
            module.__class__ = own


def _listening(own: type[nn.Module], hear: Callable[[], None]) -> type[nn.Module]:
    """A class like `own` that says when its mode is read."""

    def mode(self: nn.Module) -> bool:
        hear()
        return bool(self.__dict__["training"])

    return type(own.__name__, (own,), {"training": property(mode), "__module__": own.__module__})
