"""A pretrained network with the facts that autotune needs about it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autotune.backbones.inputs import InputDescription
from autotune.errors import BackboneError


@dataclass(frozen=True)
class Backbone:
    """A pretrained network with its head and input description."""

    network: nn.Module
    """Module that returns logits (n, classes), floating-point."""

    source: str
    """Name it was loaded by: `torchvision:resnet50`, `python:net.py:make`, `object`."""

    family: str
    """Name of the search space that is used by default."""

    head: str
    """Path of the task layer in `network`: a Linear or a convolution."""

    input: InputDescription | None = None
    """None for a `python:` source without `--input`: the task's arrays decide then."""

    fingerprint: str = ""
    """Digest of the tensors as loaded, without the head's; empty on the meta device."""

    def tensors(self) -> dict[str, Tensor]:
        """Parameters and buffers of the network, without the head's."""
        prefix = self.head + "."
        state = self.network.state_dict()
        return {name: t for name, t in state.items() if not name.startswith(prefix)}

    def parameters(self) -> dict[str, nn.Parameter]:
        """Parameters without the head's, each once, in the order of registration."""
        prefix = self.head + "."
        named = self.network.named_parameters()
        return {name: p for name, p in named if not name.startswith(prefix)}


def describe(
    network: nn.Module,
    *,
    source: str,
    family: str,
    head: str | None = None,
    input: InputDescription | None = None,
) -> Backbone:
    """Backbone around `network`; finds its head and computes its fingerprint.

    Raises `BackboneError` for a network without parameters or without a last layer to replace.
    """
    if not isinstance(network, nn.Module):
        kind = type(network).__name__
        raise BackboneError(f"A backbone must be a torch.nn.Module, {source} is of type {kind}.")
    path = _checked(network, head) if head else find_head(network)
    backbone = Backbone(network, source, family, path, input)
    return Backbone(network, source, family, path, input, fingerprint(backbone.tensors()))


def find_head(network: nn.Module) -> str:
    """Path of the last layer with parameters, which must be a Linear or a convolution."""
    owners = [
        (path, module)
        for path, module in network.named_modules()
        if next(module.parameters(recurse=False), None) is not None
    ]
    if not owners:
        raise BackboneError("A backbone must have parameters, this network has none.")
    path, layer = str(owners[-1][0]), owners[-1][1]
    if path and isinstance(layer, (nn.Linear, nn.Conv2d)):
        return path
    raise BackboneError(
        f"A head must be a Linear or Conv2d inside the network; the last layer is "
        f"{path or 'the network itself'!r}, a {type(layer).__name__}. Name it with --head."
    )


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes, dtypes and values; empty for tensors on the meta device."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        if tensor.is_meta:
            return ""
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
        values = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(values.numpy().tobytes())
    return digest.hexdigest()


def new_head(old: nn.Module, classes: int) -> nn.Module:
    """New layer of the old head's kind with `classes` outputs, in its dtype and on its device."""
    where: dict[str, Any] = {"dtype": old.weight.dtype, "device": old.weight.device}
    if isinstance(old, nn.Linear):
        return nn.Linear(old.in_features, classes, old.bias is not None, **where)
    assert isinstance(old, nn.Conv2d)
    return nn.Conv2d(
        old.in_channels,
        classes,
        old.kernel_size,  # type: ignore[arg-type]
        old.stride,  # type: ignore[arg-type]
        old.padding,  # type: ignore[arg-type]
        bias=old.bias is not None,
        **where,
    )


def _checked(network: nn.Module, head: str) -> str:
    try:
        layer = network.get_submodule(head)
    except AttributeError as error:
        raise BackboneError(f"The network has no layer {head!r}. Name another --head.") from error
    if isinstance(layer, (nn.Linear, nn.Conv2d)):
        return head
    raise BackboneError(
        f"A head must be a Linear or Conv2d, {head!r} is a {type(layer).__name__}. "
        "Name another --head."
    )
