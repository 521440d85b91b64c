"""Parameters that a network does not use, and those that its owner has frozen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import stateless

from autotune.backbones.eval_mode import evaluating
from autotune.backbones.forward import logits_of
from autotune.backbones.layer_names import tensor_name
from autotune.backbones.precision import TUNABLE
from autotune.errors import ConfigError
from autotune.utils.patterns import match_starts


def unused_parameters(network: nn.Module, batches: Sequence[Tensor]) -> frozenset[str]:
    """Names of parameters on which the logits do not depend, for any of some batches (n, ...).

    Examples are a mask token of pretraining, a decoder, or an auxiliary head that runs in training
    alone. A parameter whose gradient is zero is used, and so are integer and complex parameters,
    which have none; without batches, all are. The network is left unchanged, its gradients
    included.
    """
    names = {name: p for name, p in network.named_parameters() if p.dtype in TUNABLE}
    left = set(names) if batches else set()
    for inputs in batches:
        if not left:
            break
        with _tracked(network), evaluating(network), torch.enable_grad():
            logits_of(network(inputs)).sum().backward()
            left = {name for name in left if names[name].grad is None}
    return frozenset(left)


def written_parameters(network: nn.Module, inputs: Tensor) -> list[str]:
    """Names of parameters whose values a forward pass changes, in either mode.

    Examples are a teacher that follows its student, or weights that are clipped in place. Values
    are restored; weights of embeddings with `max_norm`, which are handled, do not count.
    """
    handled = {id(p) for m in network.modules() if hasattr(m, "max_norm") for p in m.parameters()}
    named = [(n, p) for n, p in network.named_parameters() if id(p) not in handled]
    before = [p.detach().to("cpu", copy=True) for _, p in named]
    with evaluating(network), torch.random.fork_rng(devices=_gpus(inputs)):
        for mode in (False, True):
            with suppress(Exception):  # such as batch norm in training mode on one value
                network.train(mode)(inputs)
        written = []
        for (name, parameter), value in zip(named, before, strict=True):
            if not torch.equal(_bytes(parameter), _bytes(value)):
                parameter.copy_(value)
                written.append(name)
    return written


def _bytes(tensor: Tensor) -> Tensor:
    """Values as bytes, in which NaN is equal to NaN, and which every dtype has."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8)


def _gpus(inputs: Tensor) -> list[torch.device]:
    return [inputs.device] if inputs.is_cuda else []


def swapped_parameters(network: nn.Module, batches: Sequence[Tensor]) -> frozenset[str]:
    """Names of parameters for which the network's own code puts others, with `functional_call`.

    Weights of hypernetworks and ensembles are such; what a plan attaches to them would be in the
    way.
    """
    names = {id(p): name for name, p in network.named_parameters()}
    swapped: set[str] = set()
    with _recording_calls(lambda p: swapped.add(names.get(id(p), ""))), evaluating(network):
        for inputs in batches:
            network(inputs)
    return frozenset(swapped - {""})


@contextmanager
def _recording_calls(record: Callable[[Tensor | None], None]) -> Iterator[None]:
    """Context in which `record` is called with each parameter that `functional_call` replaces."""
    original = stateless._reparametrize_module

    def recording(module: nn.Module, tensors: dict[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        known = dict(module.named_parameters(remove_duplicate=False))
        for name in tensors:
            record(known.get(name))
        return original(module, tensors, *args, **kwargs)

    stateless._reparametrize_module = recording  # type: ignore[assignment]
    try:
        yield
    finally:
        stateless._reparametrize_module = original


def frozen_parameters(network: nn.Module) -> frozenset[str]:
    """Names of parameters that the network's owner has frozen (`requires_grad=False`)."""
    return frozenset(name for name, p in network.named_parameters() if not p.requires_grad)


def excluded_parameters(network: nn.Module, patterns: Sequence[str]) -> frozenset[str]:
    """Names of parameters that some of the regular expressions match at their start.

    Raises `ConfigError` for a pattern that is no regular expression or matches nothing.
    """
    names = [name for name, _ in network.named_parameters()]
    excluded: set[str] = set()
    for pattern in patterns:
        try:
            matched = _matched(pattern, names)
        except ValueError as error:
            raise ConfigError(
                f"A pattern to exclude must be a regular expression, {pattern!r} is none: {error}. "
                "Correct it."
            ) from error
        if not matched:
            raise ConfigError(
                f"A pattern to exclude must match a parameter, {pattern!r} matches none. Names "
                f"begin like {names[0]}."
            )
        excluded |= matched
    return frozenset(excluded)


def _matched(pattern: str, names: Sequence[str]) -> set[str]:
    """Names of parameters that match a pattern, or whose weight that is computed from them does."""
    known = match_starts(pattern, {*names, *map(tensor_name, names)})
    return {name for name in names if name in known or tensor_name(name) in known}


@contextmanager
def _tracked(network: nn.Module) -> Iterator[None]:
    """Context in which parameters that can be tuned require gradients and have none yet."""
    parameters = [p for p in network.parameters() if p.dtype in TUNABLE]
    before = [(p, p.requires_grad, p.grad) for p in parameters]
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
            parameter.grad = None
        yield
    finally:
        for parameter, flag, grad in before:
            parameter.requires_grad_(flag)
            parameter.grad = grad
