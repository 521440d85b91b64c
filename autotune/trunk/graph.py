"""The graph of a frozen network: every value that it computes, traced once for all plans."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from autotune.backbones.modes import evaluating
from autotune.trunk.program import function_of

EXAMPLES = 4
"""So many go through a network to see what its nodes give."""

TOLERANCE = 1e-4
"""Of a row beside other rows, relative to its largest value: more is not rounding."""


class Untraceable(Exception):
    """Why a network has no graph, so that it runs as a whole."""


@dataclass(frozen=True)
class Seen:
    """What a node gave."""

    shape: tuple[int, ...]
    """Of one example, without the batch."""

    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Of one example."""
        return math.prod(self.shape) * self.dtype.itemsize


class Graph:
    """Nodes of a network in the order in which they run.

    Layers are single nodes: modules without children, and those of `torch.nn`. Where any module
    begins or ends, a node `taken` or `given` passes on what it takes or gives, so that a delta can
    change it or look at it there. A container that cannot be traced is a single node, too.
    Raises `Untraceable` for a network whose own code cannot be traced, or that computes something
    else as a graph.
    """

    def __init__(self, network: nn.Module, examples: Tensor) -> None:
        self.root = _Root(network)
        self._hooks = {module: hooks_of(module) for module in network.modules()}

        self.opaque: list[str] = []
        """Containers that are single nodes."""

        self.heeds_mode: bool
        """Whether the network's own code asks for its mode; the graph is that of evaluation."""

        self.seen: dict[fx.Node, Seen]
        """Of every node that can be kept: its row i belongs to example i and to no other."""

        with evaluating(network):
            traced, self.heeds_mode = _traced(self.root, self.opaque)
            observer = _Observer(traced, self.root)
            self.seen = observer.observe(examples)
        self.overwritten, self.seconds = observer.overwritten, observer.seconds
        _drop_unread(traced)
        *self.nodes, end = traced.nodes
        self.input, self.output = self.nodes[0], end.args[0]
        self.places = {node: at for at, node in enumerate(self.nodes)}
        self.boundaries = {str(node.args[1]) for node in self.nodes if is_boundary(node)}
        """Paths of modules whose input or output has a node."""

        self.sources = _sources(self.nodes)
        self.text = f"{traced}{network}"
        """What is computed, in words: nodes and layers."""

        self._owner = traced  # nodes live as long as their graph

    def own_hooks(self, module: nn.Module) -> frozenset[Any]:
        """Those that a module had when it was traced."""
        return self._hooks.get(module, frozenset())


def _drop_unread(graph: fx.Graph) -> None:
    for node in reversed(graph.nodes):
        if not node.users and node.op not in ("output", "placeholder"):
            graph.erase_node(node)


def _sources(nodes: list[fx.Node]) -> dict[fx.Node, fx.Node]:
    """Node → the one whose value it passes on: itself, but for boundaries."""
    found: dict[fx.Node, fx.Node] = {}
    for node in nodes:
        found[node] = found[read_by(node)] if is_boundary(node) else node
    return found


def taken(x: Any, path: str) -> Any:
    """What the module at a path takes first."""
    return x


def given(x: Any, path: str) -> Any:
    """What the module at a path gives."""
    return x


def is_boundary(node: fx.Node) -> bool:
    """Whether a node does nothing but pass a value into a module or out of it."""
    return node.op == "call_function" and node.target in (taken, given)


def read_by(node: fx.Node) -> fx.Node:
    """The first that a node reads."""
    first = node.args[0]
    assert isinstance(first, fx.Node)
    return first


def reads_shape(node: fx.Node) -> bool:
    """Whether a node asks a tensor for its shape, dtype or device alone."""
    if node.op == "call_function" and node.target is getattr:
        return node.args[1] in ("shape", "dtype", "device", "ndim")
    return node.op == "call_method" and node.target in ("size", "dim", "is_floating_point")


def hooks_of(module: nn.Module) -> frozenset[Any]:
    """What runs before and after the module's own code."""
    return frozenset([*module._forward_pre_hooks.values(), *module._forward_hooks.values()])


NETWORK = "network"
"""Its path in graphs."""


class _Root(nn.Module):
    """Calls the network as others do, so that its own arguments have their defaults."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Any) -> Any:
        return self.network(x)


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


def _traced(root: nn.Module, opaque: list[str]) -> tuple[fx.Graph, bool]:
    """Trace again and again, what cannot be traced, or heeds its mode, as one node from then on.

    And whether the network's own code heeds its mode.
    """
    while True:
        tracer = _Tracer(root, opaque)
        try:
            with _noticing(root) as heeding:
                graph = tracer.trace(root)
        except Exception as error:
            if tracer.inside in ([], [NETWORK]):
                raise Untraceable((str(error).strip() or repr(error)).splitlines()[0]) from error
            opaque.append(tracer.inside[-1])
            continue
        if not isinstance(_end(graph), fx.Node):
            raise Untraceable("it gives several tensors")
        if not heeding - {NETWORK}:
            return graph, bool(heeding)
        opaque += sorted(heeding - {NETWORK})


def _end(graph: fx.Graph) -> Any:
    return next(iter(reversed(graph.nodes))).args[0]


@contextmanager
def _noticing(root: nn.Module) -> Iterator[set[str]]:
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


class _Observer:
    """Runs a graph node by node and looks at what each gives.

    A value that a later node changes in place is that node's from then on, as it is in the network.
    """

    def __init__(self, graph: fx.Graph, root: nn.Module) -> None:
        self.graph, self.root = graph, root
        self.overwritten: set[fx.Node] = set()
        """Nodes whose tensor a later one changes in place."""

        self.seconds: dict[fx.Node, float] = {}
        """That each took for one example, when it ran for the second time."""

    def observe(self, examples: Tensor) -> dict[fx.Node, Seen]:
        """Nodes with a row for each example, which depends on no other example."""
        few, many = examples[:2], torch.cat([examples[:1], examples[2:]])
        first = self._run(few, self._resolve)
        if not _is_like(first[_end(self.graph)], self.root(few.clone()), 0.0):
            raise Untraceable("it computes something else as a graph")
        second = self._run(many, lambda *_: None)
        return {
            node: Seen(tuple(value.shape[1:]), value.dtype)
            for node, value in first.items()
            if isinstance(value, Tensor) and _has_rows(value, second[node], len(few), len(many))
        }

    def _run(self, examples: Tensor, watch: Callable[..., None]) -> dict[fx.Node, Any]:
        """Node → what it gives, before a later one changes it."""
        values: dict[fx.Node, Any] = {}
        found: dict[fx.Node, Any] = {}
        for node in self.graph.nodes:
            if node.op != "output":
                versions = {n: v._version for n, v in values.items() if isinstance(v, Tensor)}
                began = time.perf_counter()
                values[node] = self._give(node, values, examples)
                self.seconds[node] = (time.perf_counter() - began) / len(examples)
                watch(node, values, versions)
                found[node] = _copied(values[node])
        return found

    def _resolve(
        self, node: fx.Node, values: dict[fx.Node, Any], versions: dict[fx.Node, int]
    ) -> None:
        """Whoever reads a value after it was changed in place reads it from the node that did."""
        for other, version in versions.items():
            if values[other]._version != version:
                self.overwritten.add(other)
                self._replace_later(other, node, values)

    def _replace_later(self, old: fx.Node, new: fx.Node, values: dict[fx.Node, Any]) -> None:
        later = [user for user in old.users if new < user]
        if not later:
            return
        mine, theirs = values[old], values[new]
        is_same = isinstance(theirs, Tensor) and theirs.shape == mine.shape
        if not is_same or theirs.data_ptr() != mine.data_ptr():
            raise Untraceable(f"{new.name} changes {old.name} in place, which others still read")
        for user in later:
            user.replace_input_with(old, new)

    def _give(self, node: fx.Node, values: dict[fx.Node, Any], examples: Tensor) -> Any:
        if node.op == "placeholder":
            return examples.clone()
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
        return function_of(node, self.root)(*args, **kwargs)


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else None


def _has_rows(few: Tensor, many: Tensor, n: int, m: int) -> bool:
    """Whether dimension 0 is that of examples, and the first one's row is the same in both."""
    if few.shape[:1] != (n,) or many.shape[:1] != (m,) or few.shape[1:] != many.shape[1:]:
        return False
    return _is_like(few[0], many[0], TOLERANCE)


def _is_like(a: Tensor, b: Tensor, tolerance: float) -> bool:
    a, b = a.double().nan_to_num(), b.double().nan_to_num()
    return bool(((a - b).abs() <= tolerance * b.abs().max()).all()) if a.numel() else True
