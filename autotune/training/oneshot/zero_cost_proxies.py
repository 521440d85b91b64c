"""Proxies: how much the loss asks of every method before anything of it is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from autotune.deltas.site import Site
from autotune.training.loop import autocast
from autotune.training.oneshot.supernet import Entry, Strand, Supernet

Batch = tuple[Tensor, Tensor]

DRAWS = 2
"""Times that labels are drawn from the network's own predictions."""


@dataclass(frozen=True)
class Proxy:
    """What the loss's gradient says of one method in one unit, the head fitted, all deltas zero."""

    mass: float
    """Squared norm of the gradient in the delta's own directions; for low rank the sum of the
    squares of the largest singular values of the kernel's gradient. To first order what a step of
    gradient descent gains."""

    chance: float
    """The same under labels drawn from the network's own predictions: in expectation the trace of
    the Fisher information in these directions, divided by the number of examples. Mass divided by
    chance has no bias for depth. 0 where nothing is drawn."""

    relative: float
    """Norm of the gradient of the unit's weights, divided by the norm of the weights (Auto-RGN,
    arXiv 2210.11466); 0 for spans."""


def find_proxies(
    supernet: Supernet, batches: Sequence[Batch], generator: torch.Generator, *, draws: int = DRAWS
) -> dict[Entry, Proxy]:
    """(unit, label of a method alone) → its proxy on these batches of (inputs, labels)."""
    for strand in supernet.strands:
        strand.open(-1)
    true, *drawn = _gradients(supernet, batches, generator, draws)
    supernet.close()
    mass, relative = _masses(supernet, true), _relatives(supernet, true)
    by_draw = [_masses(supernet, gradients) for gradients in drawn]
    chance = {e: sum(masses[e] for masses in by_draw) / max(1, draws) for e in mass}
    return {entry: Proxy(mass[entry], chance[entry], relative[entry[0]]) for entry in mass}


Gradients = dict[int, Tensor]
"""id of a parameter → the loss's gradient, a mean over batches."""


def _gradients(
    supernet: Supernet, batches: Sequence[Batch], generator: torch.Generator, draws: int
) -> list[Gradients]:
    """Under the labels themselves, then under drawn ones; one pass forward serves all."""
    own = [p for strand in supernet.strands for p in strand.delta.parameters()]
    frozen = [slot.frozen for site in supernet.sites.values() for slot in site.slots]
    asked = [*{id(p): p for p in (*own, *frozen)}.values()]
    for parameter in asked:
        parameter.requires_grad_(True)
    sums: list[Gradients] = [{} for _ in range(1 + draws)]
    for inputs, labels in batches:
        with autocast(inputs.device):
            logits = supernet.network(inputs)
        drawn = [_drawn(logits, generator) for _ in range(draws)]
        for i, target in enumerate((labels, *drawn)):
            loss = F.cross_entropy(logits.float(), target) / len(batches)
            found = torch.autograd.grad(loss, asked, allow_unused=True, retain_graph=i < draws)
            _add(sums[i], asked, found)
    for parameter in frozen:
        parameter.requires_grad_(False)
    return sums


def _drawn(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Labels from the network's own predictions."""
    chances = logits.detach().float().softmax(1).cpu()
    return torch.multinomial(chances, 1, generator=generator).flatten().to(logits.device)


def _add(sums: Gradients, asked: Sequence[Tensor], found: Sequence[Tensor | None]) -> None:
    for parameter, gradient in zip(asked, found, strict=True):
        if gradient is not None:
            before = sums.get(id(parameter))
            sums[id(parameter)] = gradient if before is None else before + gradient


def _masses(supernet: Supernet, gradients: Gradients) -> dict[Entry, float]:
    return {
        strand.entry(at): mass
        for strand in supernet.strands
        for at, mass in enumerate(_by_size(strand, supernet.sites[strand.unit], gradients))
    }


def _by_size(strand: Strand, site: Site, gradients: Gradients) -> Sequence[float]:
    slots = [slot for slot in strand.delta.changes(site) if id(slot.frozen) in gradients]
    asked = [(slot, gradients[id(slot.frozen)]) for slot in slots]
    given = strand.delta.masses(asked, strand.sizes)
    if given is not None:
        return given
    own = [gradients[id(p)] for p in strand.delta.parameters() if id(p) in gradients]
    whole = float(sum(float(gradient.square().sum()) for gradient in own))
    return [whole] * len(strand.methods)


def _relatives(supernet: Supernet, gradients: Gradients) -> dict[str, float]:
    return {unit: _relative(site, gradients) for unit, site in supernet.sites.items()}


def _relative(site: Site, gradients: Gradients) -> float:
    tensors = [slot.frozen for slot in site.slots]
    asked = sum(float(gradients[id(t)].square().sum()) for t in tensors if id(t) in gradients)
    there = sum(float(t.detach().square().sum()) for t in tensors)
    return float((asked / there) ** 0.5) if there else 0.0
