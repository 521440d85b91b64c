"""Fitted head, from which supernets and criteria start."""

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
    """Train a head on the first part; return it and its rate, which is the best on the second.

    Without a cache, only the middle rate is tried, since every step runs the frozen network.
    """
    probe = engine.linear_probe()
    if not probe.prefix.keeps:
        rates = sorted(rates)[(len(rates) - 1) // 2 :][:1]
    fits = [(probe.fit(parts[0], evaluated=parts[1], rate=rate), rate) for rate in rates]
    (head, _), rate = max(fits, key=lambda fit: fit[0][1])
    return head, rate
