"""Operators that stand for modules in an exported graph: layers, and the ends of every module."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from autotune.training.prefix.nodes import module_input, module_output

LAYER, INPUT, OUTPUT = range(3)
"""Kinds of placeholders."""


class OpaqueHead(nn.Module):
    """Stands for a head while a network is traced, as one node, whatever the head consists of.

    The head that trains later may be of another class than the network's own.
    """

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self._head = (head,)  # in a tuple, so that it is no child

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._head[0](*args, **kwargs)


@cache
def _operator() -> Any:
    """Operator that stands for something of module number `at`; its output is like `like`."""

    @torch.library.custom_op("autotune::placeholder", mutates_args=())
    def placeholder(x: Tensor, like: Tensor, at: int, kind: int) -> Tensor:
        return like.clone()

    @placeholder.register_fake
    def _(x: Tensor, like: Tensor, at: int, kind: int) -> Tensor:
        return torch.empty_like(like)

    return torch.ops.autotune.placeholder.default


@dataclass(frozen=True)
class Placeholders:
    """Modules that placeholders in a graph refer to by their number."""

    paths: tuple[str, ...]

    def copied(
        self, node: fx.Node, graph: fx.Graph, known: Mapping[fx.Node, fx.Node]
    ) -> fx.Node | None:
        """What a placeholder stands for, added to another graph; None for other operators."""
        if node.op != "call_function" or node.target is not _operator():
            return None
        read = known[node.args[0]]  # type: ignore[index]
        path, kind = self.paths[int(node.args[2])], node.args[3]  # type: ignore[arg-type]
        if kind == LAYER:
            return graph.create_node("call_module", path, (read,), {}, name=node.name)
        function = module_input if kind == INPUT else module_output
        return graph.create_node("call_function", function, (read, path), {}, name=node.name)

    def layers(self, graph: fx.Graph) -> set[str]:
        """Paths of the modules that are layers in a graph."""
        nodes = [n for n in graph.nodes if n.target is _operator() and n.args[3] == LAYER]
        return {self.paths[n.args[2]] for n in nodes}


@contextmanager
def placeholders(
    root: nn.Module, layers: Collection[str], *, has_boundaries: bool
) -> Iterator[Placeholders]:
    """Context in which `torch.export` sees placeholders in the graph of a network.

    Modules without children among `layers`, such as dropout and stochastic depth, become one
    operator each where they are called with one tensor and return one of the same shape and dtype,
    and so does an `OpaqueHead`, whatever the shape. With `has_boundaries`, so do the first input
    and the first output of every module, where a delta can change or observe them.
    """
    modules = dict(root.named_modules())
    with ExitStack() as stack:
        for at, (path, module) in enumerate(modules.items()):
            if path in layers and next(module.children(), None) is None:
                stack.enter_context(_layer(module, at))
            if has_boundaries and path:
                stack.enter_context(_ends(module, at))
        yield Placeholders(tuple(modules))


@contextmanager
def _layer(layer: nn.Module, at: int) -> Iterator[None]:
    """Context with another forward in place of the layer's, which may be the user's own already."""
    attributes = vars(layer)
    before, is_head = attributes.get("forward"), isinstance(layer, OpaqueHead)
    attributes["forward"] = partial(_stand_in, layer.forward, at, is_head)
    try:
        yield
    finally:
        del attributes["forward"]
        if before is not None:
            attributes["forward"] = before


def _stand_in(
    forward: Callable[..., Any], at: int, is_head: bool, *args: Any, **kwargs: Any
) -> Any:
    output = forward(*args, **kwargs)
    is_alone = len(args) == 1 and not kwargs and isinstance(args[0], Tensor)
    if not is_alone or not isinstance(output, Tensor):
        return output
    is_like = output.shape == args[0].shape and output.dtype == args[0].dtype
    return _operator()(args[0], output, at, LAYER) if is_like or is_head else output


@contextmanager
def _ends(module: nn.Module, at: int) -> Iterator[None]:
    before = module.register_forward_pre_hook(partial(_mark_input, at), with_kwargs=True)
    after = module.register_forward_hook(partial(_mark_output, at))
    try:
        yield
    finally:
        before.remove()
        after.remove()


def _mark_input(at: int, _: nn.Module, args: Any, kwargs: Any) -> Any:
    if args:
        return (_marked(args[0], at, INPUT), *args[1:]), kwargs
    if kwargs:
        first = next(iter(kwargs))
        return args, {**kwargs, first: _marked(kwargs[first], at, INPUT)}
    return None


def _mark_output(at: int, _: nn.Module, __: Any, output: Any) -> Any:
    if type(output) is tuple and output:
        return (_marked(output[0], at, OUTPUT), *output[1:])
    return _marked(output, at, OUTPUT)


def _marked(value: Any, at: int, kind: int) -> Any:
    return _operator()(value, value, at, kind) if isinstance(value, Tensor) else value
