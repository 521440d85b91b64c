"""What a plan costs while it runs, measured: time of inference, memory of a training step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from autotune.backbones.eval_mode import evaluating
from autotune.deltas.attach import Deltas

TURNS = 7
"""Of pairs of forward passes, one more at the beginning left out."""

RESOLUTION = 0.05
"""Of latency: smaller differences are not told apart."""

MOMENTS = 2
"""Tensors that AdamW keeps for each that trains."""


def latency(network: nn.Module, deltas: Deltas, inputs: Tensor) -> float:
    """Time of inference in units of the backbone's own, from passes that take turns.

    What merges into the weights costs nothing: without other deltas it is exactly 1.
    """
    if all(delta.mergeable for delta in deltas.by_place.values()):
        return 1.0
    with evaluating(network), parametrize.cached():
        ratios = [_ratio(network, deltas, inputs) for _ in range(TURNS + 1)]
    ratio = median(ratios[1:])
    return max(1.0, round(ratio / RESOLUTION) * RESOLUTION)


def memory(network: nn.Module, trained: list[nn.Parameter], inputs: Tensor) -> int:
    """Bytes of a training step beside the frozen network: kept activations, gradients, moments."""
    frozen = _storages(network)
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        at = tensor.untyped_storage().data_ptr()
        if at not in frozen:
            kept.setdefault(at, tensor)
        return tensor

    with (
        torch.random.fork_rng(devices=[]),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        logits = network(inputs)
        F.cross_entropy(logits, logits.argmax(1).detach())
    activations = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    own = sum(p.numel() * p.element_size() for p in trained)
    return activations + (1 + MOMENTS) * own


def _ratio(network: nn.Module, deltas: Deltas, inputs: Tensor) -> float:
    ours = _seconds(network, inputs)
    with _paths_off(deltas):
        return ours / _seconds(network, inputs)


@contextmanager
def _paths_off(deltas: Deltas) -> Iterator[None]:
    """The network for a moment without what was added to it; merged changes of weights stay."""
    paths = [
        (deltas.sites[unit], delta) for (unit, _), delta in deltas.by_place.items() if delta.on_path
    ]
    for _, delta in reversed(paths):
        delta.detach()
    try:
        yield
    finally:
        for site, delta in paths:
            delta.attach(site)


def _storages(network: nn.Module) -> dict[int, Any]:
    tensors = [*network.parameters(), *network.buffers()]
    return {tensor.untyped_storage().data_ptr(): tensor for tensor in tensors}


def _seconds(network: nn.Module, inputs: Tensor) -> float:
    began = time.perf_counter()
    network(inputs)
    if inputs.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began
