"""`nsga2`: a genetic algorithm with elitist selection (Deb et al. 2002), decoded."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import optuna
from optuna.samplers import NSGAIISampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState, create_trial

from autotune.problem.sampling import seed_of
from autotune.study.strategies.base import DecodingSampler, Space

POPULATION = 20
"""Trials a generation; the first is random."""


class FrontSampler(DecodingSampler):
    """Optuna's NSGA-II; where the front is asked for, on value and price.

    Uniform crossover, one mutation per plan on average.
    The study keeps one value a trial, so its complete trials are copied into one in memory that has
    two: in the order of their numbers, so that a resumed search has the same copy.
    """

    is_spread = True

    def make(self, seed: int) -> NSGAIISampler:
        return NSGAIISampler(seed=seed, population_size=POPULATION)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: Space
    ) -> dict[str, Any]:
        if self.price is None:
            return super().sample_relative(study, trial, search_space)
        inner = self.make(seed_of(self.seed, trial.number))
        copy = self._two_valued(study)
        copy.add_trial(create_trial(state=TrialState.RUNNING))
        running = copy.get_trials(deepcopy=False)[-1]
        # parents come in another order when they are selected than afterwards
        inner.get_parent_population(copy, inner.get_trial_generation(copy, running))
        proposed = self._by(inner, copy, running, search_space)
        copy.tell(running.number, state=TrialState.FAIL)  # it is copied when it has ended
        return proposed

    def _two_valued(self, study: Study) -> Study:
        assert self.price is not None
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            if trial.number not in self._copied:
                self._copied.add(trial.number)
                self._add(self._copy, trial, self.price(trial))
        return self._copy

    @cached_property
    def _copy(self) -> Study:
        return optuna.create_study(directions=["maximize", "minimize"])

    @cached_property
    def _copied(self) -> set[int]:
        """Numbers of the trials that the copy has."""
        return set()

    def _add(self, copy: Study, trial: FrozenTrial, price: float) -> None:
        params = {name: value for name, value in trial.params.items() if name in self._open}
        distributions: Space = {name: self._open[name] for name in params}
        running = TrialState.RUNNING
        copy.add_trial(create_trial(state=running, params=params, distributions=distributions))
        added = copy.get_trials(deepcopy=False)[-1]
        self.make(self.seed).get_trial_generation(copy, added)  # which it writes to the copy
        copy.tell(added.number, [trial.values[0], price])
