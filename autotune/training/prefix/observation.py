"""What the nodes of a graph give: seen once, on a few examples."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from autotune.training.prefix.nodes import NodeValue, Untraceable, end_of
from autotune.training.prefix.program import function_of

OBSERVED_EXAMPLES = 4
"""So many go through a network to see what its nodes give."""

TOLERANCE = 1e-4
"""Of a row beside other rows, relative to its largest value: more is not rounding."""


class Observer:
    """Runs a graph node by node and looks at what each gives.

    A value that a later node changes in place is that node's from then on, as it is in the network.
    """

    def __init__(self, graph: fx.Graph, root: nn.Module) -> None:
        self.graph, self.root = graph, root
        self.overwritten: set[fx.Node] = set()
        """Nodes whose tensor a later one changes in place."""

        self.seconds: dict[fx.Node, float] = {}
        """That each took for one example, when it ran for the second time."""

    def observe(self, examples: Tensor) -> dict[fx.Node, NodeValue]:
        """Nodes with a row for each example, which depends on no other example."""
        few, many = examples[:2], torch.cat([examples[:1], examples[2:]])
        first = self._run(few, self._resolve)
        if not _is_like(first[end_of(self.graph)], self.root(few.clone()), 0.0):
            raise Untraceable("it computes something else as a graph")
        second = self._run(many, lambda *_: None)
        return {
            node: NodeValue(tuple(value.shape[1:]), value.dtype)
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
