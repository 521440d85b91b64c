"""Footprint of a plan, measured on the network: inference latency and memory of a training step."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from autotune.backbones.activation_checkpoints import plain_checkpoints
from autotune.backbones.eval_mode import evaluating
from autotune.backbones.forward import logits_of
from autotune.backbones.precision import widened
from autotune.deltas.attach import Deltas
from autotune.training.loop import Recipe, rng_devices

TURNS = 7
"""Number of timed pairs of forward passes, after one pair for warm-up.

Not tuned: the median of seven ignores three outliers.
"""

RESOLUTION = 0.05
"""Step to which latency is rounded, in units of the backbone's own latency.

Timing noise is of this order, and equal plans should have equal latencies.
"""

MOMENTS = 2
"""Tensors that AdamW keeps for each trained tensor: the two moments."""


def footprint(
    measure: str,
    network: nn.Module,
    deltas: Deltas,
    parameters: Sequence[nn.Parameter],
    inputs: Tensor,
    recipe: Recipe,
) -> dict[str, float]:
    """Measurement `measure` (`latency` or `memory`) for one batch, as a mapping with one entry."""
    if measure == "memory":
        return {"memory": float(memory(network, parameters, inputs, recipe))}
    return {"latency": latency(network, deltas, inputs, recipe)}


def latency(network: nn.Module, deltas: Deltas, inputs: Tensor, recipe: Recipe) -> float:
    """Latency of a forward pass in units of the backbone's own, measured in alternation.

    Deltas that merge into the weights cost nothing: with only such deltas it is exactly 1.
    """
    if all(delta.mergeable for delta in deltas.by_place.values()):
        return 1.0
    with evaluating(network), recipe.autocast(), parametrize.cached():
        ratios = [_ratio(network, deltas, inputs) for _ in range(TURNS + 1)]
    ratio = median(ratios[1:])
    return max(1.0, round(ratio / RESOLUTION) * RESOLUTION)


@plain_checkpoints()
def memory(
    network: nn.Module, parameters: Sequence[nn.Parameter], inputs: Tensor, recipe: Recipe
) -> int:
    """Memory of a training step in bytes, in addition to the frozen network.

    Counts saved activations, gradients and the optimizer's moments.
    """
    frozen = _storages(network)
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        at = tensor.untyped_storage().data_ptr()
        if at not in frozen:
            kept.setdefault(at, tensor)
        return tensor

    with (
        torch.random.fork_rng(devices=rng_devices(inputs.device)),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        recipe.autocast(),
    ):
        logits = widened(logits_of(network(inputs)))
        F.cross_entropy(logits, logits.argmax(1).detach())
    activations = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    trained = sum(p.numel() * p.element_size() for p in parameters)
    return activations + (1 + MOMENTS) * trained


def _ratio(network: nn.Module, deltas: Deltas, inputs: Tensor) -> float:
    with_paths = _seconds(network, inputs)
    with _paths_off(deltas):
        return with_paths / _seconds(network, inputs)


@contextmanager
def _paths_off(deltas: Deltas) -> Iterator[None]:
    """Detach added paths while the context is open; changes of weights stay."""
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
