"""A pretrained network with the facts that autotune needs about it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from autotune.backbones.heads.copies import new_head
from autotune.backbones.heads.factory import HeadFactory, made_head
from autotune.backbones.heads.finding import checked_head, find_head
from autotune.backbones.inputs import InputDescription, some_inputs
from autotune.backbones.precision import TUNABLE, matched
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
    """Path of the task layer in `network`."""

    input: InputDescription | None = None
    """None for a `python:` source without `--input`: the task's arrays decide then."""

    fingerprint: str = ""
    """Digest of the tensors as loaded, without the head's; empty on the meta device."""

    unused: frozenset[str] = frozenset()
    """Names of parameters that the logits do not depend on; they are no part of the 100 %."""

    protected: Mapping[str, str] = field(default_factory=dict)
    """Name → reason (`frozen`, `excluded`) of parameters that are never changed."""

    head_factory: HeadFactory | None = None
    """Makes heads; None for copies of the network's own, a Linear or a convolution."""

    @property
    def opaque_head(self) -> str | None:
        """Path of the head if new ones may be of another class than it; None otherwise."""
        return self.head if self.head_factory is not None else None

    def new_head(self, classes: int, old: nn.Module | None = None) -> nn.Module:
        """Untrained head with `classes` outputs, in place of `old` (default: the network's).

        Raises `BackboneError` if the network's own cannot be copied, or the factory returns none.
        """
        old = self.network.get_submodule(self.head) if old is None else old
        if self.head_factory is None:
            return new_head(old, classes)
        return made_head(self.head_factory, old, classes)

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
        """Parameters in use that a plan may change; integer and complex ones never are."""
        usable = {n: p for n, p in self.parameters().items() if p.dtype in TUNABLE}
        return {name: p for name, p in usable.items() if name not in self.protected}


def describe(
    network: nn.Module,
    *,
    source: str,
    family: str,
    head: str | None = None,
    input: InputDescription | None = None,
) -> Backbone:
    """Backbone around `network`; finds its head and computes its fingerprint.

    Raises `BackboneError` for a network without parameters or without a last layer to replace, and
    for one whose tensors have no shapes yet or whose modules cannot be changed.
    """
    if not isinstance(network, nn.Module):
        kind = type(network).__name__
        raise BackboneError(f"A backbone must be a torch.nn.Module, {source} is of type {kind}.")
    _refuse_unusable(network, source)
    if _first_meta(network) is None:
        input = matched(input, network)
    path = checked_head(network, head) if head else find_head(network, _examples(network, input))
    backbone = Backbone(network, source, family, path, input)
    return Backbone(network, source, family, path, input, fingerprint(backbone.tensors()))


def require_values(network: nn.Module, source: str) -> None:
    """Raise `BackboneError` for a network with tensors on the meta device."""
    if (name := _first_meta(network)) is not None:
        raise BackboneError(
            f"A backbone must have values, {name!r} of {source} is on the meta device. Load the "
            "weights, as with network.to_empty(device='cpu') and load_state_dict."
        )


def _first_meta(network: nn.Module) -> str | None:
    tensors = (*network.named_parameters(), *network.named_buffers())
    return next((name for name, tensor in tensors if tensor.is_meta), None)


def _refuse_unusable(network: nn.Module, source: str) -> None:
    for path, module in network.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            what = repr(path) if path else "the network"
            raise BackboneError(
                f"A backbone must consist of Python modules, {what} of {source} is a ScriptModule, "
                "which cannot be changed. Give the network that was scripted or traced."
            )
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if is_lazy(tensor):
            raise BackboneError(
                f"A backbone must have run once, {name!r} of {source} has no shape yet, as in lazy "
                "modules. Run one batch first: network(inputs)."
            )


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
