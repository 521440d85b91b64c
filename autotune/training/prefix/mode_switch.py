"""Operators whose arguments depend on a module's mode, from one trace in each mode."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from autotune.training.prefix.nodes import Untraceable

LAYOUT_OPERATORS = (torch.ops.aten.contiguous.default, torch.ops.aten.clone.default)
"""Operators that change only the layout in memory; `torch.export` leaves out those without effect.

Attention with dropout has another layout than attention without, so a trace in one mode may have
more of them.
"""

CHECKS = (
    torch.ops.aten._assert_scalar.default,
    torch.ops.aten._assert_async.msg,
    torch.ops.aten._assert_tensor_metadata.default,
)
"""Operators that check sizes which `torch.export` assumed; nothing reads them."""


@dataclass(frozen=True)
class ModeSwitch:
    """Calls an operator with the arguments of the mode that its module has.

    In a graph it reads the positional and keyword arguments of training mode, then those of
    evaluation mode.
    """

    function: Callable[..., Any]
    path: str
    """Path of the module whose code calls the operator."""

    __name__ = "mode_switch"  # graphs are printed with the names of their functions

    def __call__(self, *_: Any) -> Any:
        raise NotImplementedError("the mode is that of a module, see `of`")

    def of(self, root: nn.Module) -> Callable[..., Any]:
        """The operator for the present mode of the module below `root`."""
        module = root.get_submodule(self.path)

        def call(training_args: Any, training_kwargs: Any, args: Any, kwargs: Any) -> Any:
            if module.training:
                return self.function(*training_args, **training_kwargs)
            return self.function(*args, **kwargs)

        return call


@dataclass(frozen=True)
class ModeArguments:
    """Arguments of an operator in evaluation mode."""

    path: str
    """Path of the module whose mode it is."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def differing_operators(
    training: fx.Graph, evaluation: fx.Graph, dependent: Collection[str]
) -> dict[fx.Node, ModeArguments]:
    """Operators of the graph in training mode that have other arguments in evaluation mode.

    Raises `Untraceable` if the graphs have other operators, but for those of layout.
    """
    known: dict[fx.Node, fx.Node] = {}
    differing: dict[fx.Node, ModeArguments] = {}
    others = _computing(evaluation, known)
    checks = _only_checking(training)
    for node in training.nodes:
        if node.target in LAYOUT_OPERATORS or node in checks:
            continue
        other = next(others, None)
        if other is None or (node.op, node.target) != (other.op, other.target):
            raise Untraceable("training mode runs other operators than evaluation mode")
        known[other] = node
        args, kwargs = fx.node.map_arg((other.args, dict(other.kwargs)), known.__getitem__)
        if _without_layout((args, kwargs)) != _without_layout((node.args, dict(node.kwargs))):
            differing[node] = ModeArguments(_path(node, dependent), tuple(args), dict(kwargs))
    if next(others, None) is not None:
        raise Untraceable("evaluation mode runs other operators than training mode")
    return differing


def _computing(graph: fx.Graph, known: dict[fx.Node, fx.Node]) -> Iterator[fx.Node]:
    """Nodes that do not only change the layout; these stand for what they read."""
    checks = _only_checking(graph)
    for node in graph.nodes:
        if node.target in LAYOUT_OPERATORS:
            known[node] = known[node.args[0]]
        elif node not in checks:
            yield node


def _only_checking(graph: fx.Graph) -> set[fx.Node]:
    """Nodes that check a size of the traced batch, and those that only these read."""
    checks: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        is_read = any(user not in checks for user in node.users)
        if node.target in CHECKS or (node.users and not is_read):
            checks.add(node)
    return checks


def _without_layout(arguments: Any) -> Any:
    def read(node: fx.Node) -> fx.Node:
        while node.target in LAYOUT_OPERATORS:
            node = node.args[0]  # type: ignore[assignment]
        return node

    return fx.node.map_arg(arguments, read)


def _path(node: fx.Node, dependent: Collection[str]) -> str:
    """Path of the innermost module around a node whose computation depends on its mode."""
    for path in reversed(module_paths(node)):
        if path in dependent:
            return path
    raise Untraceable(f"{node.name} depends on the mode of a module that does not call it")


def module_paths(node: fx.Node) -> list[str]:
    """Paths of the modules whose code calls an exported operator, the outermost first."""
    stack: Mapping[str, tuple[str, Any]] = node.meta.get("nn_module_stack", {})
    return [path for path, _ in stack.values()]
