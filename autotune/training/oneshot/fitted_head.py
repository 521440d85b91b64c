"""A head fitted to the frozen network, which supernets and criteria start from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import nn

from autotune.tasks.part import Part

if TYPE_CHECKING:
    from autotune.training.engine import Engine


def fit_best_head(
    engine: Engine, parts: tuple[Part, Part], rates: Sequence[float]
) -> tuple[nn.Module, float]:
    """A head trained on the first part, and its learning rate: the best one on the second part.

    Only the middle rate is tried where the frozen network must run for every step.
    """
    probe = engine.linear_probe()
    if not probe.trunk.keeps:
        rates = sorted(rates)[(len(rates) - 1) // 2 :][:1]
    fits = [(probe.fit(parts[0], evaluated=parts[1], rate=rate), rate) for rate in rates]
    (head, _), rate = max(fits, key=lambda fit: fit[0][1])
    return head, rate
