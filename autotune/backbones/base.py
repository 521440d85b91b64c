"""A pretrained network with the facts that autotune needs about it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from autotune.backbones.head import checked_head, find_head
from autotune.backbones.inputs import InputDescription, some_inputs
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

    unused: frozenset[str] = frozenset()
    """Names of parameters that the logits do not depend on; they are no part of the 100 %."""

    protected: frozenset[str] = frozenset()
    """Names of parameters that are never changed: the user froze or excluded them."""

    def tensors(self) -> dict[str, Tensor]:
        """Parameters and buffers of the network, without the head's."""
        prefix = self.head + "."
        state = self.network.state_dict()
        return {name: t for name, t in state.items() if not name.startswith(prefix)}

    def parameters(self) -> dict[str, nn.Parameter]:
        """Parameters in use without the head's, each once, in the order of registration."""
        prefix = self.head + "."
        named = self.network.named_parameters()
        return {n: p for n, p in named if not n.startswith(prefix) and n not in self.unused}

    def tunable(self) -> dict[str, nn.Parameter]:
        """Parameters in use that a plan may change."""
        return {name: p for name, p in self.parameters().items() if name not in self.protected}


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
    path = checked_head(network, head) if head else find_head(network, _examples(network, input))
    backbone = Backbone(network, source, family, path, input)
    return Backbone(network, source, family, path, input, fingerprint(backbone.tensors()))


def with_head(backbone: Backbone, head: str) -> Backbone:
    """The backbone with another of its layers as its head."""
    moved = replace(backbone, head=head)
    return replace(moved, fingerprint=fingerprint(moved.tensors()))


def _examples(network: nn.Module, input: InputDescription | None) -> Tensor | None:
    """Two random examples for a network that has parameters, if its input is described."""
    parameter = next(network.parameters(), None)
    if input is None or parameter is None:
        return None
    return some_inputs(input, 2).to(parameter.device)


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
