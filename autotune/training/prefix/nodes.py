"""Kinds of nodes in a graph, and the root module that they are called from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from autotune.backbones.batch_length import length
from autotune.backbones.forward import logits_of
from autotune.errors import first_line


class Untraceable(Exception):
    """Reason why a network has no graph, so that it runs as a whole."""

    @classmethod
    def by(cls, error: Exception) -> Untraceable:
        """Reason from the first line of an error."""
        return cls(first_line(error))


@dataclass(frozen=True)
class NodeValue:
    """Shape and dtype of a node's value."""

    shape: tuple[int, ...]
    """Shape of one example, without the batch."""

    dtype: torch.dtype


def module_input(x: Any, path: str) -> Any:
    """Passes on the first input of the module at a path."""
    return x


def module_output(x: Any, path: str) -> Any:
    """Passes on the first output of the module at a path."""
    return x


def is_boundary(node: fx.Node) -> bool:
    """Whether a node only passes a value into a module or out of it."""
    return node.op == "call_function" and node.target in (module_input, module_output)


def read_by(node: fx.Node) -> fx.Node:
    """First node that a node reads."""
    first = node.args[0]
    assert isinstance(first, fx.Node)
    return first


def reads_shape(node: fx.Node) -> bool:
    """Whether a node reads only the shape, dtype or device of a tensor."""
    if node.op == "call_function" and node.target is getattr:
        return node.args[1] in ("shape", "dtype", "device", "ndim")
    if node.op == "call_function":
        return node.target in (torch.ops.aten.sym_size.int, length)
    return node.op == "call_method" and node.target in ("size", "dim", "is_floating_point")


NETWORK = "network"
"""Path of the network in graphs."""


class Root(nn.Module):
    """Logits of the network for only its input; other arguments have their defaults."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.constants: dict[str, Tensor] = {}
        self.blocks: dict[str, nn.Module] = {}

    def hold(self, name: str, constant: Tensor) -> None:
        """Add a tensor that a graph reads in addition to parameters and buffers."""
        self.constants[name] = constant
        setattr(self, name, constant)

    def hold_block(self, name: str, block: nn.Module) -> None:
        """Add a block of operators that a graph runs; it has no parameters."""
        self.blocks[name] = block
        self.__dict__[name] = block  # not a module of the network

    def forward(self, x: Any) -> Any:
        return logits_of(self.network(x))


def end_of(graph: fx.Graph) -> fx.Node:
    """Node whose value a graph returns; raises `Untraceable` if it returns several."""
    output = next(iter(reversed(graph.nodes))).args[0]
    if not isinstance(output, fx.Node):
        raise Untraceable("it returns several tensors")
    return output
