"""Tracing of modules: layers are nodes, and so are the input and output of every module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import fx, nn

from autotune.training.prefix.nodes import (
    NETWORK,
    Untraceable,
    end_of,
    module_input,
    module_output,
)


@dataclass(frozen=True)
class Traced:
    """Graph of a network, and the containers in it that need special treatment."""

    graph: fx.Graph
    mode_readers: frozenset[str]
    """Containers whose code reads their mode; the graph is valid in evaluation mode."""

    untraced: tuple[str, ...] = ()
    """Containers that are single nodes, because their own code cannot be traced."""


def trace_modules(root: nn.Module) -> Traced:
    """Trace repeatedly; a container that cannot be traced or reads its mode becomes one node."""
    untraced: list[str] = []
    readers: list[str] = []
    while True:
        tracer = _Tracer(root, [*untraced, *readers])
        try:
            with recording_mode_reads(root) as mode_readers:
                graph = tracer.trace(root)
        except Exception as error:
            if tracer.inside in ([], [NETWORK]):
                raise Untraceable.by(error) from error
            untraced.append(tracer.inside[-1])
            continue
        end_of(graph)
        if not mode_readers - {NETWORK}:
            return Traced(graph, frozenset(mode_readers), tuple(untraced))
        readers += sorted(mode_readers - {NETWORK})


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
            args = (self._passed(module_input, args[0], path), *args[1:])
        elif kwargs:
            first = next(iter(kwargs))
            kwargs = {**kwargs, first: self._passed(module_input, kwargs[first], path)}
        output = super().call_module(m, forward, args, kwargs)
        if isinstance(output, tuple) and output:
            output = (self._passed(module_output, output[0], path), *output[1:])
        else:
            output = self._passed(module_output, output, path)
        self.inside.pop()
        return output

    def _passed(self, function: Any, value: Any, path: str) -> Any:
        if not isinstance(value, fx.Proxy):
            return value
        return self.create_proxy("call_function", function, (value, path), {})


@contextmanager
def recording_mode_reads(root: nn.Module) -> Iterator[set[str]]:
    """Paths of containers whose code reads their mode while the context is open."""
    readers: set[str] = set()
    containers = [(p, m) for p, m in root.named_modules() if next(m.children(), None)]
    classes = [(module, type(module)) for _, module in containers]
    for path, module in containers:
        module.__class__ = _recording(type(module), partial(readers.add, path))
    try:
        yield readers
    finally:
        for module, original in classes:
            module.__class__ = original


def _recording(kind: type[nn.Module], record: Callable[[], None]) -> type[nn.Module]:
    """Subclass with the same name that calls `record` when its mode is read."""

    def mode(self: nn.Module) -> bool:
        record()
        return bool(self.__dict__["training"])

    return type(kind.__name__, (kind,), {"training": property(mode), "__module__": kind.__module__})
