"""What the nodes of a graph are, and the root that they are called from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from autotune.errors import first_line


class Untraceable(Exception):
    """Why a network has no graph, so that it runs as a whole."""

    @classmethod
    def by(cls, error: Exception) -> Untraceable:
        """In the first line of what was raised."""
        return cls(first_line(error))


@dataclass(frozen=True)
class NodeValue:
    """What a node gave."""

    shape: tuple[int, ...]
    """Of one example, without the batch."""

    dtype: torch.dtype


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
    if node.op == "call_function":
        return node.target is torch.ops.aten.sym_size.int
    return node.op == "call_method" and node.target in ("size", "dim", "is_floating_point")


NETWORK = "network"
"""Its path in graphs."""


class Root(nn.Module):
    """Calls the network as others do, so that its own arguments have their defaults."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.constants: dict[str, Tensor] = {}

    def hold(self, name: str, constant: Tensor) -> None:
        """A tensor that a graph reads beside parameters and buffers."""
        self.constants[name] = constant
        setattr(self, name, constant)

    def forward(self, x: Any) -> Any:
        return self.network(x)


def end_of(graph: fx.Graph) -> fx.Node:
    """The node that a graph gives; `Untraceable` where that is no single value."""
    found = next(iter(reversed(graph.nodes))).args[0]
    if not isinstance(found, fx.Node):
        raise Untraceable("it gives several tensors")
    return found
