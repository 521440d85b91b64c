"""Graph of a frozen network, traced once for all plans."""

from __future__ import annotations

import time
from collections.abc import Iterable
from copy import copy
from typing import Any

from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from autotune.backbones.eval_mode import evaluating
from autotune.deltas.surgery import exchanged
from autotune.training.prefix.export_tracing import trace_operators
from autotune.training.prefix.mode_effects import mode_dependent
from autotune.training.prefix.module_tracing import trace_modules
from autotune.training.prefix.nodes import NodeValue, Root, Untraceable, is_boundary, read_by
from autotune.training.prefix.observation import Observer, changed
from autotune.training.prefix.placeholders import OpaqueHead
from autotune.utils.time_limit import OutOfTime, time_limit

SECONDS = 20
"""Time for tracing a network; the largest families with random weights take about 10 s."""


class Graph:
    """Nodes of a network in the order in which they run.

    Layers (modules without children, and those of `torch.nn`) are single nodes, as are containers
    that cannot be traced. Around every module, nodes `module_input` and `module_output` pass on its
    first input and output, where a delta can change or observe them. With `is_exported`, the nodes
    are torch's own operators instead, with such boundaries only if `has_boundaries`.

    Raises `Untraceable` for a network that cannot be traced, or whose graph computes something
    different.
    """

    def __init__(
        self,
        network: nn.Module,
        examples: Tensor,
        *,
        is_exported: bool = False,
        has_boundaries: bool = True,
    ) -> None:
        self.root, self.is_exported = Root(network), is_exported
        self._hooks = {module: frozenset(hooks_of(module)) for module in network.modules()}
        self._computing = {module: computing(module) for module in network.modules()}
        with evaluating(network):
            self.dependent = _mode_dependent(self.root, examples[:2])
            """Paths of modules whose computation depends on their mode."""

            traced = (
                trace_operators(self.root, examples, self.dependent, has_boundaries=has_boundaries)
                if is_exported
                else trace_modules(self.root, self.dependent)
            )
            observer = Observer(traced.graph, self.root)
            seen = _observed(observer, examples)

        self.mode_readers, self.untraced = traced.mode_readers, traced.untraced
        self.overwritten, self.seconds = observer.overwritten, observer.seconds
        _drop_unread(traced.graph)
        *self.nodes, end = traced.graph.nodes
        self.seen = {node: seen[node] for node in self.nodes if node in seen}
        """Node → shape and dtype, for values that can be cached: row i depends on example i."""

        self.output = read_by(end)
        self.input = next(node for node in self.nodes if node.op == "placeholder")
        self.places = {node: at for at, node in enumerate(self.nodes)}
        self.boundaries = {str(node.args[1]) for node in self.nodes if is_boundary(node)}
        """Paths of modules whose input or output has a node."""

        self.changes_parts = any(node.target is changed for node in self.nodes)
        """Whether a node changes a part of another's value in place, so that they share memory."""

        self.sources = _sources(self.nodes)
        self.text = f"{traced.graph}{network}"
        """Nodes and layers as text, which is part of the names of cached values."""

        self._owner = traced.graph  # nodes live as long as their graph

    def on(self, network: nn.Module) -> Graph:
        """The same graph on `network`, a copy of its network without anything attached."""
        graph = copy(self)
        graph.root = Root(network)
        for name, tensor in self.root.constants.items():
            graph.root.hold(name, tensor)
        for name, block in self.root.blocks.items():
            graph.root.hold_block(name, block)
        graph._hooks = {module: frozenset(hooks_of(module)) for module in network.modules()}
        graph._computing = {module: computing(module) for module in network.modules()}
        return graph

    def own_hooks(self, module: nn.Module) -> frozenset[Any]:
        """Hooks that a module had when it was traced."""
        return self._hooks.get(module, frozenset())

    def own_parametrizations(self, module: nn.Module) -> frozenset[nn.Module]:
        """Parametrizations that a module had when it was traced."""
        return self._computing.get(module, frozenset())


def graphs_of(
    network: nn.Module, examples: Tensor, *, opaque_head: str | None = None
) -> tuple[list[Graph], str]:
    """Graphs of a network, the preferred one first, and the reason why one is missing.

    The graph of operators is preferred if the code of some module cannot be traced. The head at
    the path `opaque_head` becomes one node, as heads of other classes take its place.
    """
    if opaque_head is None:
        return _graphs_of(network, examples)
    head = OpaqueHead(network.get_submodule(opaque_head))
    with exchanged(network, opaque_head, head):
        return _graphs_of(network, examples)


def _graphs_of(network: nn.Module, examples: Tensor) -> tuple[list[Graph], str]:
    graphs, reason, began = list[Graph](), "", time.monotonic()
    for options in ({}, {"is_exported": True}, {"is_exported": True, "has_boundaries": False}):
        if graphs and (not graphs[0].untraced or graphs[0].is_exported):
            break
        left = SECONDS - (time.monotonic() - began)
        try:
            with time_limit(left):
                graphs.insert(0, Graph(network, examples, **options))
        except Untraceable as error:
            reason = str(error)
        except OutOfTime:
            return graphs, f"tracing takes more than {SECONDS} s"
    return graphs, reason


def _mode_dependent(root: Root, examples: Tensor) -> frozenset[str]:
    try:
        return mode_dependent(root, examples)
    except Exception as error:  # the network's code may raise anything
        raise Untraceable.by(error) from error


def _observed(observer: Observer, examples: Tensor) -> dict[fx.Node, NodeValue]:
    try:
        return observer.observe(examples)
    except Exception as error:  # the network's code may raise anything
        raise Untraceable.by(error) from error


def hooks_of(module: nn.Module) -> list[Any]:
    """Forward pre-hooks and forward hooks of a module."""
    return [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]


def computing(module: nn.Module) -> frozenset[nn.Module]:
    """Parametrizations that compute tensors of a module."""
    if not parametrize.is_parametrized(module):
        return frozenset()
    lists: Iterable[Any] = module.parametrizations.values()  # type: ignore[operator]
    return frozenset(parametrization for each in lists for parametrization in each)


def _drop_unread(graph: fx.Graph) -> None:
    for node in reversed(graph.nodes):
        if not node.users and node.op not in ("output", "placeholder"):
            graph.erase_node(node)


def _sources(nodes: list[fx.Node]) -> dict[fx.Node, fx.Node]:
    """Node → node that computes its value: itself, except for boundaries."""
    sources: dict[fx.Node, fx.Node] = {}
    for node in nodes:
        sources[node] = sources[read_by(node)] if is_boundary(node) else node
    return sources
