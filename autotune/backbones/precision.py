"""Precision: the dtype in which a backbone takes its inputs, and that in which a change trains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from autotune.backbones.eval_mode import evaluating
from autotune.backbones.inputs import InputDescription, some_inputs

LOW = (torch.float16, torch.bfloat16)
"""dtypes whose rounding would swallow small steps, so that a float32 copy trains instead."""

TUNABLE = (*LOW, torch.float32, torch.float64)
"""dtypes of parameters that can be changed; integers, complex and 8-bit floats are left alone."""


def trained_dtype(dtype: torch.dtype) -> torch.dtype:
    """dtype in which a change of tensors of `dtype` trains and is stored: float32 at least."""
    return torch.float32 if dtype in LOW else dtype


def widened(tensor: Tensor) -> Tensor:
    """The tensor in the dtype in which a change of it is computed; itself if that is its own."""
    return tensor.to(trained_dtype(tensor.dtype))


@contextmanager
def without_autocast(tensor: Tensor) -> Iterator[None]:
    """Context without autocast on a tensor's device, as changes are computed in float32.

    A merged weight has the same values as the one that trained, wherever it is computed.
    """
    kind = tensor.device.type
    if torch.is_autocast_enabled(kind):
        with torch.autocast(kind, enabled=False):
            yield
    else:
        yield


def matched(input: InputDescription | None, network: nn.Module) -> InputDescription | None:
    """The description with the floating-point dtype that the network takes.

    This is the dtype of the network's parameters or, if they have several, of the first layer that
    reads the input. Integers stay as they are.
    """
    if input is None or not getattr(torch, input.dtype).is_floating_point:
        return input
    dtypes = {p.dtype for p in network.parameters() if p.dtype in TUNABLE}
    dtype = next(iter(dtypes)) if len(dtypes) == 1 else _first_dtype(network, input)
    return replace(input, dtype=str(dtype).removeprefix("torch.")) if dtype else input


def _first_dtype(network: nn.Module, input: InputDescription) -> torch.dtype | None:
    """dtype of the first layer with parameters that is called with floating-point values."""
    seen: list[torch.dtype] = []

    def note(layer: nn.Module, args: Any) -> None:
        dtypes = [p.dtype for p in layer.parameters(recurse=False) if p.dtype in TUNABLE]
        if dtypes and args and isinstance(args[0], Tensor) and args[0].is_floating_point():
            seen.append(dtypes[0])

    handles = [module.register_forward_pre_hook(note) for module in network.modules()]
    try:
        device = next(network.parameters()).device
        with evaluating(network):
            network(some_inputs(input, 2).to(device))
    except Exception:  # a network may raise anything, also for inputs of another dtype
        pass
    finally:
        for handle in handles:
            handle.remove()
    return seen[0] if seen else None
