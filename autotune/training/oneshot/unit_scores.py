"""Scores of units before any training, from their weights and a few examples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from autotune.deltas.kernels import matrix_shape
from autotune.deltas.site import Site, Slot, sites
from autotune.tasks.part import Part
from autotune.tasks.splits import halved
from autotune.training.evidence import TaskEvidence
from autotune.training.fisher import connection_sensitivity, relative_gradient_norm
from autotune.training.oneshot.fitted_head import fit_best_head

if TYPE_CHECKING:
    from autotune.training.engine import Engine

EXAMPLES = 32
"""Number of examples of each half on which criteria are computed, with one gradient each.

Not tuned: the time grows linearly, and the correlation of the two halves is reported.
"""

SINGULAR_FLOOR = 1e-12
"""Lower bound of singular values relative to the largest; smaller ones are float64 rounding."""


def scores_by_half(
    engine: Engine, criterion: str, head_rates: Sequence[float]
) -> tuple[dict[str, float], dict[str, float]]:
    """Unit → score by a criterion, on each of two halves of the training part."""
    parts = halved(engine.task.train, engine.seed)
    head, _ = fit_best_head(engine, parts, head_rates)
    by_unit = sites(engine.backbone.network, engine.units, engine.units.flow)

    def scores(part: Part) -> dict[str, float]:
        evidence = TaskEvidence(
            engine.backbone,
            part,
            input=engine.input,
            device=engine.device,
            fit_head=lambda: head,
            examples=EXAMPLES,
        )
        return unit_scores(criterion, by_unit, evidence)

    return scores(parts[0]), scores(parts[1])


def unit_scores(
    criterion: str, sites: Mapping[str, Site], evidence: TaskEvidence
) -> dict[str, float]:
    """Unit → score by a criterion; a larger score predicts more gain from changing the unit.

    Spans have no weights, so they have no score. Call it only while nothing is attached.
    """
    score = CRITERIA[criterion](evidence)
    return {name: score(site.slots) for name, site in sites.items() if not site.is_span()}


Score = Callable[[Iterable[Slot]], float]
"""Maps the parameters of one unit to its score."""


def _fisher(evidence: TaskEvidence) -> Score:
    """Sum of the weights' empirical Fisher information (FISH, arXiv 2111.09839)."""
    scores = evidence.scores("fisher")
    return lambda slots: _total(scores[slot.name] for slot in slots)


def _relative(evidence: TaskEvidence) -> Score:
    """Norm of the mean gradient relative to that of the weights (Auto-RGN, arXiv 2210.11466)."""
    gradients = evidence.scores("gradient")

    def score(slots: Iterable[Slot]) -> float:
        slots = [*slots]
        return relative_gradient_norm(
            (gradients[slot.name] for slot in slots), (slot.tensor for slot in slots)
        )

    return score


def _taylor(evidence: TaskEvidence) -> Score:
    """Sum of |w·g| (connection sensitivity, SNIP, arXiv 1810.02340)."""
    gradients = evidence.scores("gradient")
    return lambda slots: _total(
        connection_sensitivity(slot.tensor, gradients[slot.name]) for slot in slots
    )


def _activation(evidence: TaskEvidence) -> Score:
    """Sum of |w|·‖x‖, each weight times the norm of its input channel (Wanda, arXiv 2306.11695)."""

    layers = [m for m in evidence.backbone.network.modules() if _has_input_channels(m)]
    with _input_norms(layers) as norms:
        evidence.run()

    def score(slots: Iterable[Slot]) -> float:
        kernels = [slot for slot in slots if slot.is_matrix() and id(slot.layer) in norms]
        return _total(_weighted_by_input(slot, norms[id(slot.layer)]) for slot in kernels)

    return score


def _condition(evidence: TaskEvidence) -> Score:
    """Mean logarithm of the kernels' condition numbers; uses no data."""

    def score(slots: Iterable[Slot]) -> float:
        kernels = [slot.tensor.detach() for slot in slots if slot.is_matrix()]
        spectra = [torch.linalg.svdvals(k.reshape(matrix_shape(k)).double()) for k in kernels]
        logs = [
            float((s[0] / s[-1].clamp_min(SINGULAR_FLOOR * s[0])).log())
            for s in spectra
            if s[0] > 0
        ]
        return sum(logs) / len(logs) if logs else 0.0

    return score


CRITERIA: Mapping[str, Callable[[TaskEvidence], Score]] = {
    "fisher": _fisher,
    "relative": _relative,
    "taylor": _taylor,
    "activation": _activation,
    "condition": _condition,
}
"""Name of a criterion → function from evidence to a score of units."""


def _total(tensors: Iterable[Tensor]) -> float:
    return float(sum(float(tensor.sum()) for tensor in tensors))


def _has_input_channels(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear | nn.modules.conv._ConvNd)


def _weighted_by_input(slot: Slot, norms: Tensor) -> Tensor:
    """|w| times the norm of its input channel, summed over kernel positions."""
    kernel = slot.tensor.detach().abs()
    groups = getattr(slot.layer, "groups", 1)
    if isinstance(slot.layer, nn.modules.conv._ConvTransposeNd):
        return kernel.flatten(1).sum(1) * norms
    by_group = norms.view(groups, -1).repeat_interleave(len(kernel) // groups, 0)
    return kernel.flatten(2).sum(2) * by_group if kernel.ndim > 2 else kernel * by_group


@contextmanager
def _input_norms(layers: Iterable[nn.Module]) -> Iterator[dict[int, Tensor]]:
    """id of a layer → norm of each input channel; filled when the context closes."""
    squares: dict[int, Tensor] = {}

    def observe(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].detach()
        x = x if isinstance(layer, nn.Linear) else x.movedim(1, -1)
        squares[id(layer)] = squares.get(id(layer), 0) + x.reshape(-1, x.shape[-1]).square().sum(0)

    handles = [layer.register_forward_pre_hook(observe) for layer in layers]
    norms: dict[int, Tensor] = {}
    try:
        yield norms
    finally:
        for handle in handles:
            handle.remove()
        norms.update({key: total.sqrt() for key, total in squares.items()})
