"""Tracing of modules: layers are nodes, and so are the input and output of every module."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import fx, nn

from autotune.backbones.batch_length import symbolic_length
from autotune.backbones.snapshot import Snapshot
from autotune.training.prefix.mode_effects import recording_mode_reads
from autotune.training.prefix.nodes import (
    NETWORK,
    Root,
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
    """Modules on whose mode the graph's operators depend; it is valid in their evaluation mode."""

    untraced: tuple[str, ...] = ()
    """Containers that are single nodes, because their own code cannot be traced.

    With those that read their mode, if they hold most of the network.
    """


def trace_modules(root: Root, dependent: Collection[str]) -> Traced:
    """Trace repeatedly until every container with code of another kind is one node.

    These are containers that cannot be traced, and those among `dependent`, whose computation
    depends on their mode, that read it.
    """
    untraced: list[str] = []
    opaque: list[str] = []
    while True:
        tracer, snapshot = _Tracer(root, [*untraced, *opaque]), Snapshot(root.network)
        try:
            with symbolic_length(root), recording_mode_reads(root) as readers:
                graph = tracer.trace(root)
        except Exception as error:
            if not (container := _innermost(tracer.inside, [*untraced, *opaque])):
                raise Untraceable.by(error) from error
            untraced.append(container)
            continue
        finally:
            snapshot.restore()  # a network may keep values that it computes
        end_of(graph)
        for name in tracer.tensor_attrs.values():
            if name in vars(root):  # a constant that the network's code computes
                root.hold(name, getattr(root, name))
        mode_readers = readers.intersection(dependent)
        if not mode_readers - {NETWORK}:
            large = [path for path in opaque if _holds_most(root, path)]
            return Traced(graph, frozenset(mode_readers), (*untraced, *large))
        opaque += sorted(mode_readers - {NETWORK})


def _holds_most(root: nn.Module, path: str) -> bool:
    sizes = (sum(p.numel() for p in m.parameters()) for m in (root.get_submodule(path), root))
    inside, total = sizes
    return 2 * inside > total


def _innermost(inside: Sequence[str], opaque: Collection[str]) -> str:
    """Innermost container of the failing code that is not one node already; empty if none is."""
    left = [path for path in inside if path not in opaque and path != NETWORK]
    return left[-1] if left else ""


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
        if m._forward_pre_hooks and not self.is_leaf_module(m, path):
            # deltas' hooks come after the user's, which may change the input
            handle = m.register_forward_pre_hook(partial(self._entered, path), with_kwargs=True)
            try:
                output = super().call_module(m, forward, args, kwargs)
            finally:
                handle.remove()
        else:
            args, kwargs = self._entered(path, m, args, kwargs)
            output = super().call_module(m, forward, args, kwargs)
        if isinstance(output, tuple) and output:
            output = (self._passed(module_output, output[0], path), *output[1:])
        else:
            output = self._passed(module_output, output, path)
        self.inside.pop()
        return output

    def _entered(self, path: str, _: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """Arguments of a module, of which the first passes through a node."""
        if args:
            return (self._passed(module_input, args[0], path), *args[1:]), kwargs
        if kwargs:
            first = next(iter(kwargs))
            return args, {**kwargs, first: self._passed(module_input, kwargs[first], path)}
        return args, kwargs

    def _passed(self, function: Any, value: Any, path: str) -> Any:
        if not isinstance(value, fx.Proxy):
            return value
        return self.create_proxy("call_function", function, (value, path), {})
