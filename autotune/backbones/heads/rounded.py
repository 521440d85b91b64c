"""Heads of low precision, which train in float32 and compute in their own dtype."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from autotune.backbones.precision import LOW, widened


def trained_head(head: nn.Module) -> nn.Module:
    """The head, in place, with float32 parameters that its layers read rounded to their dtype.

    A head of float32 or float64 stays as it is.
    """
    for layer in _layers(head).values():
        for name, stack in _stacks(layer).items():
            _round(stack, getattr(layer, name).dtype)
        for name, parameter in list(layer._parameters.items()):
            if parameter is not None and parameter.dtype in LOW:
                layer._parameters[name] = _wide(parameter)
                rounded = Rounded(parameter.dtype)
                # unsafe: the rounding changes the dtype
                parametrize.register_parametrization(layer, name, rounded, unsafe=True)
    return head


def plain_head(head: nn.Module) -> nn.Module:
    """The head, in place, in the precision in which it computes; undoes `trained_head`."""
    for layer in _layers(head).values():
        for name, stack in _stacks(layer).items():
            if isinstance(stack[-1], Rounded):
                _unround(layer, name, stack)
    return head


def _unround(layer: nn.Module, name: str, stack: Any) -> None:
    """Remove the rounding of a tensor, and round what it computed it from."""
    owner, dtype = stack._parameters, stack[-1].dtype
    if len(stack) == 1:
        parametrize.remove_parametrizations(layer, name, leave_parametrized=False)
        owner = {name: layer._parameters[name]}
    else:
        del stack[-1]
    rounded = {k: nn.Parameter(t.detach().to(dtype), False) for k, t in owner.items()}
    (layer._parameters if name in rounded else stack._parameters).update(rounded)


def head_tensors(head: nn.Module) -> dict[str, Tensor]:
    """State dict of a head; that of a rounded one has the names and float32 values that train."""
    rounded = {
        f"{path}parametrizations.{name}.original": f"{path}{name}"
        for path, layer in _layers(head).items()
        for name, stack in _stacks(layer).items()
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


def _layers(head: nn.Module) -> dict[str, nn.Module]:
    """Start of names in the head → module of it, except for parametrizations."""
    modules = {f"{path}." if path else "": module for path, module in head.named_modules()}
    return {p: module for p, module in modules.items() if "parametrizations" not in p.split(".")}


def _stacks(layer: nn.Module) -> dict[str, Any]:
    """Name of a tensor → its parametrizations."""
    return dict(layer.parametrizations.items()) if parametrize.is_parametrized(layer) else {}  # type: ignore[union-attr,operator]


def _wide(parameter: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(widened(parameter.detach()), parameter.requires_grad)
