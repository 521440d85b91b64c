"""Zero-cost proxies: gradients of the loss with respect to untrained deltas."""

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
"""Number of draws of labels from the network's own predictions.

Not tuned: the variance of `chance` falls inversely with the number of draws, each of which costs
another backward pass.
"""


@dataclass(frozen=True)
class Proxy:
    """Measurements of one method in one unit, with a fitted head and all deltas at zero."""

    mass: float
    """Squared norm of the gradient of the loss with respect to the delta.

    For low rank, the sum of the squares of the `rank` largest singular values of the kernel's
    gradient. It is the first-order decrease of the loss by a unit step of gradient descent.
    """

    chance: float
    """Mean `mass` under labels drawn from the network's own predictions; 0 without draws.

    Its expectation is the trace of the Fisher information of the delta, divided by the number of
    examples. The ratio of mass to chance is not biased by depth.
    """

    relative: float
    """Gradient norm of the unit's weights divided by their norm; 0 for spans.

    From Auto-RGN (arXiv 2210.11466).
    """


def find_proxies(
    supernet: Supernet,
    batches: Sequence[Batch],
    recipe: Recipe,
    generator: torch.Generator,
    *,
    draws: int = DRAWS,
) -> dict[Entry, Proxy]:
    """(unit, label of one method) → its proxy on batches of (inputs, labels)."""
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
