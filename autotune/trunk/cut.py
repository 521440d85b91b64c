"""A cut: what a plan changes runs in every step, what is before it once; live values in between."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from autotune.deltas.base import IDLE, Touch, touch_of
from autotune.trunk.beside import beside
from autotune.trunk.fold import folded
from autotune.trunk.graph import Graph
from autotune.trunk.nodes import Untraceable, given, is_boundary, read_by, reads_shape, taken
from autotune.trunk.program import Function, Program, Step, function_of

HEED = (
    nn.modules.dropout._DropoutNd,
    nn.modules.batchnorm._NormBase,
    nn.MultiheadAttention,
    nn.TransformerEncoderLayer,
    nn.TransformerDecoderLayer,
    nn.RReLU,
)
"""Layers of torch that compute something else in training."""


@dataclass(frozen=True, eq=False)
class Cut:
    """Where a network is cut for what is on it."""

    live: tuple[fx.Node, ...]
    """Values of the frozen part that the rest reads."""

    behind: Program
    """From the live values to the logits, with all that trains."""


def cut(graph: Graph, *, fold: bool = False) -> Cut:
    """As deep as possible for the network as it is now, with deltas and head on it.

    With `fold`, frozen normalisation behind the cut is folded into frozen convolutions. Raises
    `Untraceable` where something is on the network that its graph has no place for.
    """
    return _Cutter(graph).cut(fold=fold)


def before(graph: Graph, wanted: Sequence[fx.Node], known: Sequence[fx.Node]) -> Program:
    """From values that are known to those that are wanted, nothing of which trains.

    The input must be among the known where anything is computed from it.
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
        self.graph, self.root = graph, graph.root
        self.source = dict(graph.sources)
        """Node → the one whose value it passes on: itself, but for boundaries that do nothing."""

        self.steps: dict[fx.Node, Step] = {}
        """What the network computes behind the cut."""

        self.live: dict[fx.Node, None] = {}
        self.shapes: list[fx.Node] = []
        """What asks a value before the cut for its shape."""

    def cut(self, *, fold: bool) -> Cut:
        self._refuse_modes()
        touches = self._touches()
        looks = {}
        for node in self.graph.nodes:
            mine = touches.get((node.target, node.args[1]), []) if is_boundary(node) else []
            if is_boundary(node):
                self.source[node] = self.source[read_by(node)]
            if mine and not all(touch.only_looks for touch in mine):
                self.source[node] = node
                self._mark(node, partial(_all, mine))
            elif mine:
                looks[node] = partial(_all, mine)
            elif not is_boundary(node) and (self._is_touched(node) or self._follows(node)):
                self._mark(node, self._function(node))
        for node, function in looks.items():
            self._mark(node, function)
        if self.source[self.graph.output] not in self.steps:
            raise Untraceable("nothing that trains is in its graph")
        for node in list(self.steps):
            self._need(self.steps[node].reads())
        self._stand_in()
        if fold:
            self.steps = folded(self.graph, self.steps, lambda node: not self._is_touched(node))
        live = tuple(sorted(self.live, key=self.graph.places.__getitem__))
        wanted = [self.source[self.graph.output]]
        return Cut(live, Program(_in_order(self.graph, self.steps), live, wanted))

    # what is on the network

    def _refuse_modes(self) -> None:
        for path in self.graph.heeding:
            if self.root.get_submodule(path).training:
                raise Untraceable(f"{path} heeds its mode, and trains")
        if self.graph.is_exported:  # which has no layers that could be in another mode
            for path, module in self.root.named_modules():
                if module.training and isinstance(module, HEED):
                    raise Untraceable(f"{path} trains, and the graph is that of evaluation")

    def _touches(self) -> dict[tuple[Any, str], list[Touch]]:
        """What deltas do at the boundaries of modules; `Untraceable` for hooks of other kinds."""
        found: dict[tuple[Any, str], list[Touch]] = {}
        layers = {str(n.target) for n in self.graph.nodes if n.op == "call_module"}
        self.native = {path for path in layers if self._runs_natively(path)}
        self._refuse_hidden(layers)
        for path in self.graph.boundaries - self.native:
            for hook in self._new_hooks(path):
                touch = touch_of(hook)
                if touch is None:
                    raise Untraceable(f"{path} has a hook of another kind")
                if touch is not IDLE:
                    kind = taken if touch.is_input else given
                    found.setdefault((kind, path), []).append(touch)
        return found

    def _refuse_hidden(self, layers: set[str]) -> None:
        """Raise for hooks where the graph shows no module; inside layers they run by themselves."""
        for path, _ in self.root.named_modules():
            if path in self.graph.boundaries or _is_inside(path, layers):
                continue
            if any(touch_of(hook) is not IDLE for hook in self._new_hooks(path)):
                raise Untraceable(f"{path} has a hook, and is no part of its graph")

    def _runs_natively(self, path: str) -> bool:
        """Whether a layer has hooks that only its own call respects, beside anything of ours."""
        layer = self.root.get_submodule(path)
        strange = [h for h in self._new_hooks(path) if touch_of(h) is None]
        return bool(strange) or bool(self.graph.own_hooks(layer) and self._new_hooks(path))

    def _new_hooks(self, path: str) -> list[Any]:
        module = self.root.get_submodule(path)
        hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
        return [hook for hook in hooks if hook not in self.graph.own_hooks(module)]

    def _is_touched(self, node: fx.Node) -> bool:
        if node.op == "get_attr":
            path, _, name = str(node.target).rpartition(".")
            owner = self.root.get_submodule(path)
            parameter = owner._parameters.get(name)
            trains = parameter is not None and parameter.requires_grad
            return trains or parametrize.is_parametrized(owner, name)
        if node.op != "call_module":
            return False
        path = str(node.target)
        layer = self.root.get_submodule(path)
        return path in self.native or any(map(self._changes, layer.modules())) or self._inner(layer)

    def _changes(self, module: nn.Module) -> bool:
        """Whether a module trains, or computes something else than in evaluation."""
        trains = any(p.requires_grad for p in module.parameters(recurse=False))
        return trains or parametrize.is_parametrized(module) or (module.training and _heeds(module))

    def _inner(self, layer: nn.Module) -> bool:
        """Whether deltas are on modules inside a layer, which no node shows."""
        inside = [module for module in layer.modules() if module is not layer]
        return any(set(_hooks(module)) - self.graph.own_hooks(module) for module in inside)

    # steps

    def _follows(self, node: fx.Node) -> bool:
        """Whether it reads what depends on something that trains, be it only a shape."""
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
        layer = self.root.get_submodule(str(node.target))
        if str(node.target) in self.native:
            return layer
        return beside(layer) or _plain(self.graph, node)

    def _need(self, nodes: list[fx.Node]) -> None:
        """What is read is live; or computed behind the cut, where its rows cannot be kept."""
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

    def _stand_in(self) -> None:
        """Shapes of values before the cut are told by the number of rows alone."""
        if not self.live:
            raise Untraceable("nothing that trains reads its input")
        anchor = next(iter(self.live))
        for node in self.shapes:
            seen = self.graph.seen[self.source[read_by(node)]]
            ask = partial(_asked, _plain(self.graph, node), seen.shape, seen.dtype, node.args[1:])
            self.steps[node] = Step(node, ask, (anchor,), node.kwargs)


def _asked(
    function: Function, shape: tuple[int, ...], dtype: Any, rest: tuple[Any, ...], x: Tensor
) -> Any:
    return function(x.new_empty((), dtype=dtype).expand(len(x), *shape), *rest)


def _all(touches: list[Touch], value: Any) -> Any:
    for touch in touches:
        value = touch(value)
    return value


def _plain(graph: Graph, node: fx.Node) -> Function:
    """What a node calls on the frozen network; hooks that are not ours are heeded."""
    if node.op != "call_module":
        return function_of(node, graph.root)
    layer = graph.root.get_submodule(str(node.target))
    return layer if graph.own_hooks(layer) else layer.forward


def _step(node: fx.Node, function: Function, source: Callable[[fx.Node], fx.Node]) -> Step:
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), source)
    return Step(node, function, tuple(args), dict(kwargs))


def _in_order(graph: Graph, steps: Mapping[fx.Node, Step]) -> list[Step]:
    return sorted(steps.values(), key=lambda step: graph.places[step.node])


def _hooks(module: nn.Module) -> list[Any]:
    return [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]


def _is_inside(path: str, layers: set[str]) -> bool:
    parts = path.split(".")
    return any(".".join(parts[:n]) in layers for n in range(1, len(parts)))


def _heeds(module: nn.Module) -> bool:
    """Whether a layer may compute something else in training; all may that are not torch's."""
    return isinstance(module, HEED) or not type(module).__module__.startswith("torch.nn")
