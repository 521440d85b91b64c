"""Heads of low precision, which train in float32 and compute in their own dtype."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from autotune.backbones.precision import LOW, widened


def trained_head(head: nn.Module) -> nn.Module:
    """The head, in place, with float32 parameters that the layer reads rounded to its dtype.

    A head of float32 or float64 stays as it is.
    """
    for name, stack in _stacks(head).items():
        _round(stack, getattr(head, name).dtype)
    for name, parameter in list(head._parameters.items()):
        if parameter is not None and parameter.dtype in LOW:
            head._parameters[name] = _wide(parameter)
            # unsafe: the rounding changes the dtype
            parametrize.register_parametrization(head, name, Rounded(parameter.dtype), unsafe=True)
    return head


def plain_head(head: nn.Module) -> nn.Module:
    """The head, in place, in the precision in which it computes; undoes `trained_head`."""
    for name, stack in _stacks(head).items():
        if not isinstance(stack[-1], Rounded):
            continue
        owner, dtype = stack._parameters, stack[-1].dtype
        if len(stack) == 1:
            parametrize.remove_parametrizations(head, name, leave_parametrized=False)
            owner = {name: head._parameters[name]}
        else:
            del stack[-1]
        rounded = {k: nn.Parameter(t.detach().to(dtype), False) for k, t in owner.items()}
        (head._parameters if name in rounded else stack._parameters).update(rounded)
    return head


def head_tensors(head: nn.Module) -> dict[str, Tensor]:
    """State dict of a head; that of a rounded one has the names and float32 values that train."""
    rounded = {
        f"parametrizations.{name}.original": name
        for name, stack in _stacks(head).items()
        if isinstance(stack[0], Rounded)
    }
    return {rounded.get(name, name): tensor for name, tensor in head.state_dict().items()}


def load_head(head: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load tensors that `head_tensors` returned; `KeyError` or `RuntimeError` for others."""
    names = zip(head.state_dict(), head_tensors(head), strict=True)
    head.load_state_dict({name: tensors[short] for name, short in names})


class Rounded(nn.Module):
    """Parametrization that rounds a float32 tensor to the dtype in which the layer computes."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.dtype)


def _round(stack: Any, dtype: torch.dtype) -> None:
    """Add rounding to the parametrizations of a tensor, if it is of low precision."""
    if dtype not in LOW:
        return
    for name, original in list(stack._parameters.items()):
        stack._parameters[name] = _wide(original)
    stack.append(Rounded(dtype))
    stack.unsafe = True


def _stacks(head: nn.Module) -> dict[str, Any]:
    """Name of a tensor → its parametrizations."""
    return dict(head.parametrizations.items()) if parametrize.is_parametrized(head) else {}  # type: ignore[union-attr,operator]


def _wide(parameter: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(widened(parameter.detach()), parameter.requires_grad)
