"""Zero-cost proxies: gradients of the loss in each method's directions before it is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from autotune.deltas.site import Site
from autotune.tasks.loading import Batch
from autotune.training.fisher import (
    Gradients,
    label_gradients,
    relative_gradient_norm,
    squared_norm,
)
from autotune.training.loop import Recipe
from autotune.training.oneshot.supernet import Entry, Strand, Supernet

DRAWS = 2
"""Draws of labels from the network's own predictions.

Not tuned: each draw costs one more backward pass and halves the variance of `chance` at most.
"""


@dataclass(frozen=True)
class Proxy:
    """Gradient of the loss with respect to one method in one unit, with a fitted head and all
    deltas at zero.
    """

    mass: float
    """Squared norm of the gradient in the delta's own directions; for low rank the sum of the
    squares of the largest singular values of the kernel's gradient. To first order the loss that a
    step of gradient descent removes."""

    chance: float
    """The same under labels drawn from the network's own predictions: in expectation the trace of
    the Fisher information in these directions, divided by the number of examples. Mass divided by
    chance has no bias for depth. 0 where nothing is drawn."""

    relative: float
    """Norm of the gradient of the unit's weights, divided by the norm of the weights (Auto-RGN,
    arXiv 2210.11466); 0 for spans."""


def find_proxies(
    supernet: Supernet,
    batches: Sequence[Batch],
    recipe: Recipe,
    generator: torch.Generator,
    *,
    draws: int = DRAWS,
) -> dict[Entry, Proxy]:
    """(unit, label of a method alone) → its proxy on these batches of (inputs, labels)."""
    for strand in supernet.strands:
        strand.open(-1)
    true, *drawn = _gradients(supernet, batches, recipe, generator, draws)
    supernet.close()
    mass, relative = _masses(supernet, true), _relatives(supernet, true)
    by_draw = [_masses(supernet, gradients) for gradients in drawn]
    chance = {e: sum(masses[e] for masses in by_draw) / max(1, draws) for e in mass}
    return {entry: Proxy(mass[entry], chance[entry], relative[entry[0]]) for entry in mass}


def _gradients(
    supernet: Supernet,
    batches: Sequence[Batch],
    recipe: Recipe,
    generator: torch.Generator,
    draws: int,
) -> list[Gradients]:
    """Gradients of deltas and frozen weights: under the true labels, then under each draw."""
    trained = [p for strand in supernet.strands for p in strand.delta.parameters()]
    frozen = [slot.frozen for site in supernet.sites.values() for slot in site.slots]
    weights = [*{id(p): p for p in (*trained, *frozen)}.values()]
    for weight in weights:
        weight.requires_grad_(True)
    gradients = label_gradients(
        supernet.network,
        weights,
        batches,
        draws=draws,
        generator=generator,
        autocast=recipe.autocast,
    )
    for weight in frozen:
        weight.requires_grad_(False)
    return gradients


def _masses(supernet: Supernet, gradients: Gradients) -> dict[Entry, float]:
    return {
        strand.entry(at): mass
        for strand in supernet.strands
        for at, mass in enumerate(_by_size(strand, supernet.sites[strand.unit], gradients))
    }


def _by_size(strand: Strand, site: Site, gradients: Gradients) -> Sequence[float]:
    slots = [slot for slot in strand.delta.changes(site) if id(slot.frozen) in gradients]
    pairs = [(slot, gradients[id(slot.frozen)]) for slot in slots]
    masses = strand.delta.masses(pairs, strand.sizes)
    if masses is not None:
        return masses
    parameters = strand.delta.parameters()
    mass = squared_norm(gradients[id(p)] for p in parameters if id(p) in gradients)
    return [mass] * len(strand.methods)


def _relatives(supernet: Supernet, gradients: Gradients) -> dict[str, float]:
    return {unit: _relative(site, gradients) for unit, site in supernet.sites.items()}


def _relative(site: Site, gradients: Gradients) -> float:
    weights = [slot.frozen for slot in site.slots]
    return relative_gradient_norm(
        (gradients[id(weight)] for weight in weights if id(weight) in gradients), weights
    )
