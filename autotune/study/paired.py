"""Paired differences of two plans over the seeds and folds they have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import mean, stdev
from typing import Any

FEWEST_PAIRS = 3
"""Fewest pairs for a claim: two that agree by chance have an interval of nearly no width."""

Values = Mapping[tuple[int, int], float]
"""(seed, fold) → value; the fold is 0 for trainings without folds."""


@dataclass(frozen=True)
class Difference:
    """Mean difference between two plans that were trained in the same way."""

    mean: float
    half: float
    """Half width of the 95 % confidence interval of the mean (Student's t); inf for one pair."""

    pairs: int

    @property
    def is_distinguishable(self) -> bool:
        """Whether the interval excludes 0, from at least `FEWEST_PAIRS` pairs."""
        return self.pairs >= FEWEST_PAIRS and abs(self.mean) > self.half

    def to_json(self) -> dict[str, Any]:
        half = self.half if self.pairs > 1 else None
        return {**asdict(self), "half": half, "distinguishable": self.is_distinguishable}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Difference:
        """Inverse of `to_json`."""
        half = float("inf") if data["half"] is None else data["half"]
        return cls(data["mean"], half, data["pairs"])


def paired(values: Values, baseline: Values) -> Difference:
    """Mean of `values` minus `baseline` over the (seed, fold) of both; at least one is required."""
    common = sorted(values.keys() & baseline.keys())
    differences, n = [values[key] - baseline[key] for key in common], len(common)
    if n < 2:
        return Difference(mean(differences), float("inf"), n)
    from scipy.special import stdtrit  # late: a tenth of a second

    half = float(stdtrit(n - 1, 0.975)) * stdev(differences) / n**0.5
    return Difference(mean(differences), half, n)


def by_fold(seed: int, value: float, folds: tuple[float, ...]) -> dict[tuple[int, int], float]:
    """Values of one training by (seed, fold): one per fold, or `value` without folds."""
    return {(seed, fold): of_fold for fold, of_fold in enumerate(folds or (value,))}
