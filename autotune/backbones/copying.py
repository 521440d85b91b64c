"""Copies of networks whose layers keep computed tensors as attributes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


def copied(network: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """Deep copy of a network.

    Weight norm by hooks and pruning keep a computed tensor as a plain attribute, which
    `copy.deepcopy` refuses; the copy holds its value, and its next forward pass computes it again.
    """
    with _detached(network):
        return copy.deepcopy(network, memo)


@contextmanager
def _detached(network: nn.Module) -> Iterator[None]:
    """Context in which plain attributes that are computed tensors have no autograd graph."""
    computed = [
        (vars(module), name, value)
        for module in network.modules()
        for name, value in vars(module).items()
        if isinstance(value, Tensor) and not value.is_leaf
    ]
    try:
        for attributes, name, value in computed:
            attributes[name] = value.detach()
        yield
    finally:
        for attributes, name, value in computed:
            attributes[name] = value
