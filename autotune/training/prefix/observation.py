"""Observation of a graph on a few examples: shapes of values, in-place changes, times."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from autotune.training.prefix.nodes import NodeValue, Untraceable, end_of, is_boundary
from autotune.training.prefix.program import function_of

OBSERVED_EXAMPLES = 5
"""Number of examples on which a graph is observed: the first two, then all in another order.

The first two have other rows, other neighbours and another batch size in the second run, so that a
value that depends on any of these (`arange(n)`, `arange(n) // 2`, a mean over the batch) differs.
"""

TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""dtype → largest difference of a value in two batches, relative to the largest value.

Rounding of float32 is around 1e-6 in networks of usual depth, whereas a row that depends on other
examples differs by far more. Its unit of rounding is 8,000 times as large in float16, and 65,000
times in bfloat16.
"""

TF32_TOLERANCE = 1e-2
"""The same on GPUs, whose convolutions may round float32 to the 10 bits of TF32."""


class Observer:
    """Runs a graph node by node and records the value of each.

    If a node changes an earlier value in place, later readers are redirected to this node or, if it
    changes only a part of the value, to a node `changed` after it, so that they read the changed
    value as in the network.
    """

    def __init__(self, graph: fx.Graph, root: nn.Module) -> None:
        self.graph, self.root = graph, root
        self.overwritten: set[fx.Node] = set()
        """Nodes whose tensor a later node changes in place."""

        self.shared: set[fx.Node] = set()
        """Those of them whose tensors share memory, of which copies would not."""

        self.seconds: dict[fx.Node, float] = {}
        """Node → time per example in the second run."""

    def observe(self, examples: Tensor) -> dict[fx.Node, NodeValue]:
        """Shape and dtype of values with one row per example that does not depend on others.

        Where the batch is dimension 1, as in networks that run over time, nodes are added to the
        graph that move it to dimension 0 and back, so that these values can be cached, too.
        """
        values, with_batch_second = self._observe(examples)
        if not with_batch_second:
            return values
        for node in with_batch_second:
            _turn(node)
        return self._observe(examples)[0]

    def _observe(self, examples: Tensor) -> tuple[dict[fx.Node, NodeValue], list[fx.Node]]:
        """Values with rows of examples, and nodes whose values have them in dimension 1."""
        few, many = examples[:2], examples.roll(-1, 0)
        first = self._run(few, self._resolve)
        if not is_like(first[end_of(self.graph)], self.root(few.clone()), 0.0):
            raise Untraceable("its graph computes something different")
        second = self._run(many, lambda *_: None)
        values = {node: value for node, value in first.items() if isinstance(value, Tensor)}
        tolerance = tolerance_of(list(values.values()))
        has_rows = partial(_has_rows, n=len(few), m=len(many), tolerance=tolerance)
        seen = {
            node: NodeValue(tuple(value.shape[1:]), value.dtype)
            for node, value in values.items()
            if node not in self.shared and has_rows(value, second[node])
        }
        second_dimension = [
            node
            for node, value in values.items()
            if node not in seen
            and node.target is not turned
            and not is_boundary(node)
            and min(value.ndim, second[node].ndim) > 1
            and has_rows(turned(value), turned(second[node]))
        ]
        return seen, second_dimension

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
        """Redirect later readers of values that this node has changed in place."""
        others = [node for node, version in versions.items() if values[node]._version != version]
        self.overwritten.update(others)
        parts = [other for other in others if not _is_same(values[other], values[node])]
        if parts:
            self.shared.update(others)
        for other in others:
            self._replace_later(other, node, is_part=other in parts)

    def _replace_later(self, old: fx.Node, new: fx.Node, *, is_part: bool) -> None:
        later = [user for user in old.users if new < user and user.target is not changed]
        if not later:
            return
        if is_part:
            with self.graph.inserting_after(new):
                new = self.graph.call_function(changed, (old, new))
        for user in later:
            user.replace_input_with(old, new)

    def _value_of(self, node: fx.Node, values: dict[fx.Node, Any], examples: Tensor) -> Any:
        if node.op == "placeholder":
            return examples.clone()
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
        return function_of(node, self.root)(*args, **kwargs)


def turned(value: Tensor) -> Tensor:
    """The value with its first two dimensions exchanged."""
    return value.transpose(0, 1)


def _turn(node: fx.Node) -> None:
    """Let later nodes read a value by way of its transpose."""
    readers = list(node.users)
    with node.graph.inserting_after(node):
        by_example = node.graph.call_function(turned, (node,))
    with node.graph.inserting_after(by_example):
        again = node.graph.call_function(turned, (by_example,))
    for reader in readers:
        reader.replace_input_with(node, again)


def changed(value: Any, by: Any) -> Any:
    """Passes on a value, after another node has changed it in place."""
    return value


def _is_same(a: Tensor, b: Any) -> bool:
    """Whether two values are one tensor, rather than one a part of the other."""
    if not isinstance(b, Tensor) or a.shape != b.shape or a.stride() != b.stride():
        return False
    return a.data_ptr() == b.data_ptr()


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else None


def _has_rows(few: Tensor, many: Tensor, n: int, m: int, tolerance: float) -> bool:
    """Whether dimension 0 is the batch, and the first `n` examples keep their rows among `m`.

    Complex values do not count: files of tensors cannot hold them.
    """
    if few.is_complex():
        return False
    if few.shape[:1] != (n,) or many.shape[:1] != (m,) or few.shape[1:] != many.shape[1:]:
        return False
    return all(is_like(few[at], many[(at - 1) % m], tolerance) for at in range(n))


def tolerance_of(values: Sequence[Tensor]) -> float:
    """Largest relative difference that the rounding of these values explains."""
    tolerances = [TOLERANCE.get(value.dtype, 0.0) for value in values]
    on_gpu = any(value.is_cuda for value in values)
    return max([*tolerances, TF32_TOLERANCE if on_gpu else 0.0])


def is_like(a: Tensor, b: Tensor, tolerance: float) -> bool:
    """Whether values differ by at most `tolerance` times the largest; integers must be equal."""
    if not a.numel():
        return True
    if not (a.is_floating_point() or a.is_complex()):
        return torch.equal(a, b)
    a, b = (_in_doubles(value).nan_to_num() for value in (a, b))
    return bool(((a - b).abs() <= tolerance * b.abs().max()).all())


def _in_doubles(value: Tensor) -> Tensor:
    return torch.view_as_real(value).double() if value.is_complex() else value.double()
