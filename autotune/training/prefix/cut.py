"""Cut of a graph in two: the part before a plan's deltas runs once, the rest in every step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, fx

from autotune.deltas.paths import Touch
from autotune.training.prefix.attached import Attached
from autotune.training.prefix.batchnorm_fusion import folded
from autotune.training.prefix.graph import Graph
from autotune.training.prefix.nodes import NETWORK, Untraceable, is_boundary, read_by, reads_shape
from autotune.training.prefix.product_branch import product_branch
from autotune.training.prefix.program import Function, Program, Step, function_of

TELLING = 0.05
"""Smallest share of a forward pass for which a reason is given."""


@dataclass(frozen=True, eq=False)
class Cut:
    """Cut of a network for the deltas attached to it."""

    live: tuple[fx.Node, ...]
    """Values of the frozen part that the rest of the network reads."""

    behind: Program
    """Program from the live values to the logits, with everything that trains."""

    why: str = ""
    """Why much of the network is behind the cut that the depth of the deltas does not demand."""


def cut(graph: Graph, *, fuse_batchnorm: bool = False) -> Cut:
    """Deepest possible cut for the deltas and the head that are attached to the network.

    With `fuse_batchnorm`, frozen batch norm behind the cut is fused into frozen convolutions.
    Raises `Untraceable` if the graph has no node for something attached to the network.
    """
    return _Cutter(graph).cut(fuse_batchnorm=fuse_batchnorm)


def before(graph: Graph, wanted: Sequence[fx.Node], known: Sequence[fx.Node]) -> Program:
    """Program from known values of the frozen network to wanted ones.

    The input must be among the known values if a step reads it.
    """
    steps: dict[fx.Node, Step] = {}
    waiting = [node for node in wanted if node not in known]
    while waiting:
        node = waiting.pop()
        if node not in steps:
            steps[node] = _step(node, _plain(graph, node), graph.sources.__getitem__)
            waiting += [n for n in steps[node].reads() if n not in known]
    return Program(_in_order(graph, steps), known, wanted, copied=graph.overwritten)


class _Cutter:
    def __init__(self, graph: Graph) -> None:
        self.graph, self.attached = graph, Attached(graph)
        self.source = dict(graph.sources)
        """Node → node that computes its value: itself, except for boundaries without an effect."""

        self.steps: dict[fx.Node, Step] = {}
        """Steps of the network behind the cut."""

        self.live: dict[fx.Node, None] = {}
        self.shapes: list[fx.Node] = []
        """Nodes that read the shape of a value before the cut."""

    def cut(self, *, fuse_batchnorm: bool) -> Cut:
        touches, looks = self.attached.touches, {}
        for node in self.graph.nodes:
            effects = touches.get((node.target, node.args[1]), []) if is_boundary(node) else []
            if is_boundary(node):
                self.source[node] = self.source[read_by(node)]
            if effects and not all(touch.only_looks for touch in effects):
                self.source[node] = node
                self._mark(node, partial(_all, effects))
            elif effects:
                looks[node] = partial(_all, effects)
            elif not is_boundary(node) and (self.attached.is_touched(node) or self._follows(node)):
                self._mark(node, self._function(node))
        for node, function in looks.items():
            self._mark(node, function)
        if self.source[self.graph.output] not in self.steps:
            raise Untraceable("nothing that trains is in its graph")
        touched = list(self.steps)
        for node in touched:
            self._need(self.steps[node].reads())
        why = self._why(touched)
        self._replace_shape_reads()
        if fuse_batchnorm:
            self.steps = folded(self.graph, self.steps, self.attached.is_touched)
        live = tuple(sorted(self.live, key=self.graph.places.__getitem__))
        wanted = [self.source[self.graph.output]]
        return Cut(live, Program(_in_order(self.graph, self.steps), live, wanted), why)

    def _why(self, touched: Sequence[fx.Node]) -> str:
        """Reasons that cost more than `TELLING` of a forward pass; empty if there is none."""
        first = min(self.graph.places[node] for node in touched)
        early = [node for node in self.steps if self.graph.places[node] < first]
        reasons = {"values have no row per example": early}
        for node in touched:
            if node.target in self.graph.untraced:
                path = str(node.target).removeprefix(f"{NETWORK}.")
                reasons[f"{path} runs as a whole, as its code cannot be traced"] = [node]
        total = sum(self.graph.seconds.values())
        shares = {
            r: sum(map(self.graph.seconds.__getitem__, n)) / total for r, n in reasons.items()
        }
        return ", ".join(f"{r} ({share:.0%})" for r, share in shares.items() if share > TELLING)

    def _follows(self, node: fx.Node) -> bool:
        """Whether a node reads a value behind the cut, even if only its shape."""
        return any(self.source[n] in self.steps for n in node.all_input_nodes)

    def _mark(self, node: fx.Node, function: Function) -> None:
        if is_boundary(node):
            read = self.source[read_by(node)]
            self.steps[node] = Step(node, function, (read,), {})
        else:
            self.steps[node] = _step(node, function, self.source.__getitem__)

    def _function(self, node: fx.Node) -> Function:
        if node.op != "call_module":
            return _plain(self.graph, node)
        layer = self.attached.modules[str(node.target)]
        if str(node.target) in self.attached.native:
            call: Function = layer
            return call
        return product_branch(layer) or _plain(self.graph, node)

    def _need(self, nodes: list[fx.Node]) -> None:
        """Make the values live that are read; values that cannot be cached move behind the cut."""
        while nodes:
            node = nodes.pop()
            if node in self.steps or node in self.live:
                continue
            if node in self.graph.seen:
                self.live[node] = None
            elif reads_shape(node) and self.source[read_by(node)] in self.graph.seen:
                self.shapes.append(node)
                self.steps[node] = Step(node, _plain(self.graph, node), (), {})
            else:
                self._mark(node, _plain(self.graph, node))
                nodes += self.steps[node].reads()

    def _replace_shape_reads(self) -> None:
        """Answer reads of shapes before the cut from the batch size, without these values."""
        if not self.live:
            raise Untraceable("nothing that trains reads its input")
        anchor = next(iter(self.live))
        for node in self.shapes:
            seen = self.graph.seen[self.source[read_by(node)]]
            read = partial(
                _read_shape, _plain(self.graph, node), seen.shape, seen.dtype, node.args[1:]
            )
            self.steps[node] = Step(node, read, (anchor,), node.kwargs)


def _read_shape(
    function: Function, shape: tuple[int, ...], dtype: Any, rest: tuple[Any, ...], x: Tensor
) -> Any:
    """Call a shape-reading function on an expanded scalar, which takes no memory."""
    return function(x.new_empty((), dtype=dtype).expand(len(x), *shape), *rest)


def _all(touches: list[Touch], value: Any) -> Any:
    for touch in touches:
        value = touch(value)
    return value


def _plain(graph: Graph, node: fx.Node) -> Function:
    """Function of a node on the frozen network, with hooks that were there when it was traced."""
    if node.op != "call_module":
        return function_of(node, graph.root)
    layer = graph.root.get_submodule(str(node.target))
    return layer if graph.own_hooks(layer) else layer.forward


def _step(node: fx.Node, function: Function, source: Callable[[fx.Node], fx.Node]) -> Step:
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), source)
    return Step(node, function, tuple(args), dict(kwargs))


def _in_order(graph: Graph, steps: Mapping[fx.Node, Step]) -> list[Step]:
    return sorted(steps.values(), key=lambda step: graph.places[step.node])
