"""Criteria: what a unit's own weights and a few examples say of it, before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from autotune.deltas.kernels import matrix_shape
from autotune.deltas.site import Site, Slot
from autotune.training.evidence import TaskEvidence


def unit_values(
    criterion: str, sites: Mapping[str, Site], evidence: TaskEvidence
) -> dict[str, float]:
    """Unit → how much the criterion says that it is worth changing; larger is more.

    Spans have no weights, so they have no value. To be asked while nothing is attached.
    """
    found = CRITERIA[criterion](evidence)
    return {name: found(site.slots) for name, site in sites.items() if not site.is_span()}


Value = Callable[[Iterable[Slot]], float]
"""Of the parameters of one unit."""


def _fisher(evidence: TaskEvidence) -> Value:
    """Empirical Fisher information: the mean of squared gradients of one example each."""
    scores = evidence.scores("fisher")
    return lambda slots: _total(scores[slot.name] for slot in slots)


def _relative(evidence: TaskEvidence) -> Value:
    """Norm of the gradient divided by the norm of the weights."""
    scores = evidence.scores("gradient")

    def value(slots: Iterable[Slot]) -> float:
        slots = [*slots]
        asked = _total(scores[slot.name].square() for slot in slots)
        there = _total(slot.tensor.detach().square() for slot in slots)
        return float((asked / there) ** 0.5) if there else 0.0

    return value


def _taylor(evidence: TaskEvidence) -> Value:
    """|w·g|: what taking each weight away would change, to first order."""
    scores = evidence.scores("gradient")
    return lambda slots: _total(slot.tensor.detach().abs() * scores[slot.name] for slot in slots)


def _activation(evidence: TaskEvidence) -> Value:
    """|w|·‖x‖: each weight times the norm of what it is multiplied with."""

    layers = [m for m in evidence.backbone.network.modules() if _takes_channels(m)]
    with _norms_of_inputs(layers) as norms:
        evidence.run()

    def value(slots: Iterable[Slot]) -> float:
        kernels = [slot for slot in slots if slot.is_matrix() and id(slot.layer) in norms]
        return _total(_by_input(slot, norms[id(slot.layer)]) for slot in kernels)

    return value


def _condition(evidence: TaskEvidence) -> Value:
    """Mean logarithm of the kernels' condition numbers; no data is looked at."""

    def value(slots: Iterable[Slot]) -> float:
        kernels = [slot.tensor.detach() for slot in slots if slot.is_matrix()]
        spectra = [torch.linalg.svdvals(k.reshape(matrix_shape(k)).double()) for k in kernels]
        logs = [float((s[0] / s[-1].clamp_min(1e-12 * s[0])).log()) for s in spectra if s[0] > 0]
        return sum(logs) / len(logs) if logs else 0.0

    return value


CRITERIA: Mapping[str, Callable[[TaskEvidence], Value]] = {
    "fisher": _fisher,
    "relative": _relative,
    "taylor": _taylor,
    "activation": _activation,
    "condition": _condition,
}
"""Name → what it says of a unit: FISH (arXiv 2111.09839), Auto-RGN (2210.11466), SNIP
(1810.02340), Wanda (2306.11695), and the kernels' condition."""


def _total(tensors: Iterable[Tensor]) -> float:
    return float(sum(float(tensor.sum()) for tensor in tensors))


def _takes_channels(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear | nn.modules.conv._ConvNd)


def _by_input(slot: Slot, norms: Tensor) -> Tensor:
    """|w| times the norm of the channel that it reads, (out, in, ...)."""
    kernel = slot.tensor.detach().abs()
    groups = getattr(slot.layer, "groups", 1)
    if isinstance(slot.layer, nn.modules.conv._ConvTransposeNd):
        return kernel.flatten(1).sum(1) * norms
    by_group = norms.view(groups, -1).repeat_interleave(len(kernel) // groups, 0)
    return kernel.flatten(2).sum(2) * by_group if kernel.ndim > 2 else kernel * by_group


@contextmanager
def _norms_of_inputs(layers: Iterable[nn.Module]) -> Iterator[dict[int, Tensor]]:
    """id of a layer → norm of each channel of what it takes, while inside."""
    squares: dict[int, Tensor] = {}

    def look(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].detach()
        x = x if isinstance(layer, nn.Linear) else x.movedim(1, -1)
        squares[id(layer)] = squares.get(id(layer), 0) + x.reshape(-1, x.shape[-1]).square().sum(0)

    handles = [layer.register_forward_pre_hook(look) for layer in layers]
    norms: dict[int, Tensor] = {}
    try:
        yield norms
    finally:
        for handle in handles:
            handle.remove()
        norms.update({key: total.sqrt() for key, total in squares.items()})
