"""`qmc`: a scrambled Sobol sequence over the labels of all units, decoded."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial
from scipy.stats.qmc import Sobol

from autotune.study.strategies.base import DecodingSampler, Space


class SobolSampler(BaseSampler):
    """Samples the point of a scrambled Sobol sequence (Joe and Kuo 2008) at the trial's number.

    Each categorical is one axis, divided into equal intervals. Optuna's `QMCSampler` samples
    categoricals at random instead, and counts its points in the storage.
    """

    def __init__(self, space: Space, seed: int) -> None:
        self.space, self.seed = space, seed
        self.sequence = Sobol(max(len(space), 1), scramble=True, rng=seed)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> Space:
        return self.space

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: Space
    ) -> dict[str, Any]:
        self.sequence.reset()
        if trial.number:
            self.sequence.fast_forward(trial.number)
        (point,) = self.sequence.random(1)
        return {
            name: _cut(self.space[name], at)
            for name, at in zip(self.space, point, strict=False)
            if name in search_space
        }

    def sample_independent(
        self, study: Study, trial: FrozenTrial, name: str, distribution: BaseDistribution
    ) -> Any:
        random = RandomSampler(self.seed + trial.number)
        return random.sample_independent(study, trial, name, distribution)


def _cut(distribution: BaseDistribution, at: float) -> Any:
    assert isinstance(distribution, CategoricalDistribution)
    return distribution.choices[int(at * len(distribution.choices))]


class BudgetedSobol(DecodingSampler):
    """Covers the space evenly, regardless of the values of trials."""

    def make(self, seed: int) -> SobolSampler:
        return self._sequence

    @cached_property
    def _sequence(self) -> SobolSampler:
        return SobolSampler(dict(self.space), self.seed)
