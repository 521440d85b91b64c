"""Names of layers and their tensors, whether or not a parametrization computes them."""

from __future__ import annotations

import re

_STACK = re.compile(r"(?:^|(?<=\.))parametrizations\.([^.]+)\..+$")
"""End of a parameter's name under a parametrization: `parametrizations.weight.original0`."""


def tensor_name(parameter: str) -> str:
    """Name of the layer's tensor that a parameter is or computes.

    `conv.parametrizations.weight.original0` belongs to `conv.weight`.
    """
    return _STACK.sub(r"\1", parameter)


def layer_name(parameter: str) -> str:
    """Path of the layer that a parameter belongs to; empty for the network itself."""
    return tensor_name(parameter).rpartition(".")[0]
