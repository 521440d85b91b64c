"""Fisher information and other scores of weights that follow from gradients of the loss.

Fisher scores rank weights for sparse tuning (FISH mask, arXiv 2111.09839), gradient norms relative
to weight norms rank layers (Auto-RGN, arXiv 2210.11466), and |w·g| ranks connections (SNIP, arXiv
1810.02340).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autotune.backbones.activation_checkpoints import plain_checkpoints
from autotune.backbones.eval_mode import evaluating
from autotune.backbones.forward import logits_of
from autotune.backbones.precision import TUNABLE, trained_dtype, widened
from autotune.backbones.snapshot import Snapshot
from autotune.tasks.loading import Batch

Gradients = dict[int, Tensor]
"""id of a tensor → gradient of the loss, averaged over batches."""


def weight_scores(
    network: nn.Module, weights: Mapping[str, nn.Parameter], batches: Sequence[Batch]
) -> dict[str, dict[str, Tensor]]:
    """Kind of score → name of a weight → scores of its elements, from one gradient per batch.

    `fisher` is the mean of the squared gradients; with one example per batch this is the empirical
    Fisher information (FISH, arXiv 2111.09839). `gradient` is the absolute value of their mean.
    """
    squares, sums = _zeros(weights), _zeros(weights)
    with _all_gradients(network):
        snapshot = Snapshot(network)  # a network may keep what it computed from its weights
        for inputs, labels in batches:
            loss = F.cross_entropy(widened(logits_of(network(inputs))), labels)
            gradients = torch.autograd.grad(loss, [*weights.values()], allow_unused=True)
            snapshot.rewind()
            for name, gradient in zip(weights, gradients, strict=True):
                if gradient is not None:
                    squares[name] += widened(gradient).square()
                    sums[name] += gradient
    n = len(batches)
    return {
        "fisher": {name: total / n for name, total in squares.items()},
        "gradient": {name: total.abs() / n for name, total in sums.items()},
    }


@plain_checkpoints()
def label_gradients(
    network: nn.Module,
    weights: Sequence[Tensor],
    batches: Sequence[Batch],
    *,
    draws: int,
    generator: torch.Generator,
    autocast: Callable[[], AbstractContextManager[Any]],
) -> list[Gradients]:
    """Mean gradients under the true labels, then under each draw from the network's predictions.

    Squared gradients under drawn labels have the Fisher information, divided by the number of
    examples, as their expectation. One forward pass per batch serves all of them.
    """
    sums: list[Gradients] = [{} for _ in range(1 + draws)]
    snapshot = Snapshot(network)
    for inputs, labels in batches:
        with autocast():
            logits = logits_of(network(inputs))
        drawn = [_drawn_labels(logits, generator) for _ in range(draws)]
        for i, targets in enumerate((labels, *drawn)):
            loss = F.cross_entropy(widened(logits), targets) / len(batches)
            gradients = torch.autograd.grad(
                loss, weights, allow_unused=True, retain_graph=i < draws
            )
            _add(sums[i], weights, gradients)
        snapshot.rewind()
    return sums


def squared_norm(tensors: Iterable[Tensor]) -> float:
    """Sum of the squares of all elements."""
    return float(sum(float(widened(tensor.detach()).square().sum()) for tensor in tensors))


def relative_gradient_norm(gradients: Iterable[Tensor], weights: Iterable[Tensor]) -> float:
    """‖g‖ / ‖w‖ over all `weights`; 0 if they are all zero (Auto-RGN, arXiv 2210.11466)."""
    weight_norm = squared_norm(weights)
    return float((squared_norm(gradients) / weight_norm) ** 0.5) if weight_norm else 0.0


def connection_sensitivity(weight: Tensor, gradient: Tensor) -> Tensor:
    """|w·g|, the first-order change of the loss if a weight is set to 0 (SNIP, 1810.02340)."""
    return weight.detach().abs() * gradient.abs()


def _zeros(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n: torch.zeros_like(w, dtype=trained_dtype(w.dtype)) for n, w in weights.items()}


def _drawn_labels(logits: Tensor, generator: torch.Generator) -> Tensor:
    probabilities = logits.detach().float().softmax(1).cpu()
    return torch.multinomial(probabilities, 1, generator=generator).flatten().to(logits.device)


def _add(sums: Gradients, weights: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    for weight, gradient in zip(weights, gradients, strict=True):
        if gradient is not None:
            total = sums.get(id(weight))
            sums[id(weight)] = gradient if total is None else total + gradient


@contextmanager
def _all_gradients(network: nn.Module) -> Iterator[None]:
    """Evaluation mode with gradients for every parameter; the flags are restored afterwards."""
    parameters = [p for p in network.parameters() if p.dtype in TUNABLE]
    flags = [(parameter, parameter.requires_grad) for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
        with evaluating(network), torch.enable_grad():
            yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
