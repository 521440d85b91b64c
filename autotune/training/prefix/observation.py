"""Observation of a graph on a few examples: shapes of values, in-place changes, times."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from autotune.backbones.precision import LOW
from autotune.training.prefix.nodes import NodeValue, Untraceable, end_of
from autotune.training.prefix.program import function_of

OBSERVED_EXAMPLES = 5
"""Number of examples on which a graph is observed: the first two, then all in another order.

The first two have other rows, other neighbours and another batch size in the second run, so that a
value that depends on any of these (`arange(n)`, `arange(n) // 2`, a mean over the batch) differs.
"""

TOLERANCE = 1e-4
"""Largest difference of an example's row in two batches, relative to the row's largest value.

Rounding of float32 is around 1e-6 in networks of usual depth, whereas a row that depends on other
examples differs by far more.
"""

ROUNDINGS = 2
"""The same for values of low precision, in units of their rounding: 0.016 in bfloat16."""


class Observer:
    """Runs a graph node by node and records the value of each.

    If a node changes an earlier value in place, later readers are redirected to this node, so that
    they read the changed value as in the network.
    """

    def __init__(self, graph: fx.Graph, root: nn.Module) -> None:
        self.graph, self.root = graph, root
        self.overwritten: set[fx.Node] = set()
        """Nodes whose tensor a later node changes in place."""

        self.seconds: dict[fx.Node, float] = {}
        """Node → time per example in the second run."""

    def observe(self, examples: Tensor) -> dict[fx.Node, NodeValue]:
        """Shape and dtype of values with one row per example that does not depend on others."""
        few, many = examples[:2], examples.roll(-1, 0)
        first = self._run(few, self._resolve)
        if not _is_like(first[end_of(self.graph)], self.root(few.clone()), 0.0):
            raise Untraceable("its graph computes something different")
        second = self._run(many, lambda *_: None)
        return {
            node: NodeValue(tuple(value.shape[1:]), value.dtype)
            for node, value in first.items()
            if isinstance(value, Tensor) and _has_rows(value, second[node], len(few), len(many))
        }

    def _run(self, examples: Tensor, watch: Callable[..., None]) -> dict[fx.Node, Any]:
        """Node → copy of its value before a later node changes it."""
        values: dict[fx.Node, Any] = {}
        copies: dict[fx.Node, Any] = {}
        for node in self.graph.nodes:
            if node.op != "output":
                versions = {n: v._version for n, v in values.items() if isinstance(v, Tensor)}
                began = time.perf_counter()
                values[node] = self._value_of(node, values, examples)
                self.seconds[node] = (time.perf_counter() - began) / len(examples)
                watch(node, values, versions)
                copies[node] = _copied(values[node])
        return copies

    def _resolve(
        self, node: fx.Node, values: dict[fx.Node, Any], versions: dict[fx.Node, int]
    ) -> None:
        """Redirect later readers of a value that this node has changed in place to this node."""
        for other, version in versions.items():
            if values[other]._version != version:
                self.overwritten.add(other)
                self._replace_later(other, node, values)

    def _replace_later(self, old: fx.Node, new: fx.Node, values: dict[fx.Node, Any]) -> None:
        later = [user for user in old.users if new < user]
        if not later:
            return
        before, after = values[old], values[new]
        is_same = isinstance(after, Tensor) and after.shape == before.shape
        if not is_same or after.data_ptr() != before.data_ptr():
            raise Untraceable(f"{new.name} changes {old.name} in place, which others still read")
        for user in later:
            user.replace_input_with(old, new)

    def _value_of(self, node: fx.Node, values: dict[fx.Node, Any], examples: Tensor) -> Any:
        if node.op == "placeholder":
            return examples.clone()
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
        return function_of(node, self.root)(*args, **kwargs)


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else None


def _has_rows(few: Tensor, many: Tensor, n: int, m: int) -> bool:
    """Whether dimension 0 is the batch, and the first `n` examples keep their rows among `m`.

    Complex values do not count: files of tensors cannot hold them.
    """
    if few.is_complex():
        return False
    if few.shape[:1] != (n,) or many.shape[:1] != (m,) or few.shape[1:] != many.shape[1:]:
        return False
    return all(_is_like(few[at], many[(at - 1) % m], TOLERANCE) for at in range(n))


def _is_like(a: Tensor, b: Tensor, tolerance: float) -> bool:
    if a.is_complex():
        a, b = torch.view_as_real(a), torch.view_as_real(b)
    if tolerance and a.dtype in LOW:
        tolerance = max(tolerance, ROUNDINGS * torch.finfo(a.dtype).eps)
    a, b = a.double().nan_to_num(), b.double().nan_to_num()
    return bool(((a - b).abs() <= tolerance * b.abs().max()).all()) if a.numel() else True
