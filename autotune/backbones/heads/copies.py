"""Copies of a head for other classes: alike in everything but the number of outputs."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from autotune.backbones.weight_hooks import hooked, put_hook, without_hooks
from autotune.errors import BackboneError

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Classes of heads that can be copied, with their subclasses."""

FACTORY = "or make heads with --head-factory"
"""Way out where a head cannot be copied."""


def new_head(old: nn.Module, classes: int) -> nn.Module:
    """Untrained copy of a head with `classes` outputs; everything else of it is as in `old`.

    The copy has the class, dtype, device, bias, stride, padding, groups and parametrizations of the
    old layer (a pruned one has an empty mask), and the layer's own `reset_parameters` initialises
    it. Raises `BackboneError` for a layer that cannot be copied so: one of another class than a
    Linear or a convolution, with further parameters of the size of its output, or with groups that
    do not divide the number of classes.
    """
    if not isinstance(old, LAYERS):
        raise BackboneError(_cannot_copy(old, "it is no Linear or convolution"))
    with torch.no_grad():
        head = _plain_copy(old)
        width = _set_outputs(head, classes)
        for name, parameter in list(head.named_parameters(recurse=False)):
            if name in ("weight", "bias"):
                shape = (classes, *parameter.shape[1:])
                setattr(head, name, nn.Parameter(parameter.new_empty(shape)))
            elif width in parameter.shape:
                reason = f"its parameter {name!r} has one value per output"
                raise BackboneError(_cannot_copy(old, reason))
        head.reset_parameters()  # type: ignore[operator]
        _parametrize_as(old, head)
    return head.requires_grad_(True)


def n_outputs(old: nn.Module, tensors: Mapping[str, Tensor]) -> int:
    """Number of outputs of a head like `old` with these tensors.

    Weights that are computed from others have another name: their shapes are compared with those of
    `old`, as only the number of outputs may differ.
    """
    for name in ("weight", "bias"):
        if name in tensors:
            return len(tensors[name])
    before = old.state_dict()
    pairs = [(before[name].shape, tensor.shape) for name, tensor in tensors.items()]
    sizes = [new for a, b in pairs for former, new in zip(a, b, strict=True) if former != new]
    number = sizes[0] if sizes else n_classes(old)
    if number is None:
        raise BackboneError(_cannot_copy(old, "its number of outputs has no name"))
    return number


def n_classes(head: nn.Module) -> int | None:
    """Number of outputs of a head; None for a layer that does not name it."""
    number = getattr(head, "out_features", getattr(head, "out_channels", None))
    return number if isinstance(number, int) else None


def _plain_copy(old: nn.Module) -> nn.Module:
    """Copy of a layer without its parametrizations, whose tensors become plain parameters."""
    names = _parametrized(old)
    kind = parametrize.type_before_parametrizations(old)
    state = {**vars(old), "_modules": {} if names else old._modules}
    # not deepcopy(old): a copy of a parametrized layer shares its class, and
    # remove_parametrizations changes the class
    state = copy.deepcopy(without_hooks(old, state))
    head: nn.Module = object.__new__(kind)
    vars(head).update(state)
    for name in (*names, *hooked(old)):
        setattr(head, name, nn.Parameter(getattr(old, name).detach().clone()))
    return head


def _parametrized(layer: nn.Module) -> list[str]:
    """Names of the tensors of a layer that are parametrized."""
    return list(layer.parametrizations) if parametrize.is_parametrized(layer) else []  # type: ignore[arg-type]


def _set_outputs(head: nn.Module, classes: int) -> int:
    """Set the number of outputs of a layer; return the former one."""
    if isinstance(head, nn.Linear):
        before, head.out_features = head.out_features, classes
        return before
    assert isinstance(head, nn.modules.conv._ConvNd)
    if classes % head.groups:
        raise BackboneError(
            f"The outputs of the head must be a multiple of its {head.groups} groups, the task has "
            f"{classes} classes. Name another layer with --head, {FACTORY}."
        )
    before, head.out_channels = head.out_channels, classes
    return before


def _parametrize_as(old: nn.Module, head: nn.Module) -> None:
    for name in _parametrized(old):
        stack: Any = old.parametrizations[name]  # type: ignore[index]
        for parametrization in stack:
            fresh = _fresh(old, parametrization, getattr(head, name))
            parametrize.register_parametrization(head, name, fresh, unsafe=stack.unsafe)
    for name, hook in hooked(old).items():
        put_hook(head, name, hook)


def _fresh(old: nn.Module, parametrization: nn.Module, weight: Tensor) -> nn.Module:
    if isinstance(parametrization, parametrizations._SpectralNorm):
        steps = getattr(parametrization, "n_power_iterations", 1)
        return type(parametrization)(weight, steps, parametrization.dim, parametrization.eps)
    if isinstance(parametrization, parametrizations._Orthogonal):
        has_base = hasattr(parametrization, "base")
        form = parametrization.orthogonal_map
        return type(parametrization)(weight, form, use_trivialization=has_base)
    if any(True for _ in _tensors(parametrization)):
        raise BackboneError(
            _cannot_copy(old, f"its parametrization {type(parametrization).__name__} has tensors")
        )
    return copy.deepcopy(parametrization)


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _cannot_copy(old: nn.Module, reason: str) -> str:
    return (
        f"A head must be copied with another number of outputs, {type(old).__name__} cannot: "
        f"{reason}. Name another layer with --head, {FACTORY}."
    )
