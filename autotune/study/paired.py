"""Paired differences: whether two plans can be told apart by the seeds and folds they share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import mean, stdev
from typing import Any

from scipy.special import stdtrit

FEWEST_PAIRS = 3
"""Pairs below which nothing is told apart: two that agree by chance would claim certainty."""

Values = Mapping[tuple[int, int], float]
"""(seed, fold) → value; the fold is 0 where there are none."""


@dataclass(frozen=True)
class Difference:
    """By how much one plan is better than another, trained alike."""

    mean: float
    half: float
    """Half of the 95 % interval of the mean (Student's t); infinite for a single pair."""

    pairs: int

    @property
    def is_distinguishable(self) -> bool:
        """Whether the interval leaves 0 out, of at least three pairs."""
        return self.pairs >= FEWEST_PAIRS and abs(self.mean) > self.half

    def to_json(self) -> dict[str, Any]:
        half = self.half if self.pairs > 1 else None
        return {**asdict(self), "half": half, "distinguishable": self.is_distinguishable}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Difference:
        """The difference that `to_json` described."""
        half = float("inf") if data["half"] is None else data["half"]
        return cls(data["mean"], half, data["pairs"])


def paired(ours: Values, theirs: Values) -> Difference:
    """Ours less theirs over the pairs that both have; at least one is needed."""
    common = sorted(ours.keys() & theirs.keys())
    differences, n = [ours[key] - theirs[key] for key in common], len(common)
    if n < 2:
        return Difference(mean(differences), float("inf"), n)
    half = float(stdtrit(n - 1, 0.975)) * stdev(differences) / n**0.5
    return Difference(mean(differences), half, n)


def by_fold(seed: int, value: float, folds: tuple[float, ...]) -> dict[tuple[int, int], float]:
    """The values of one training: of each fold, or its only one."""
    return {(seed, fold): found for fold, found in enumerate(folds or (value,))}
