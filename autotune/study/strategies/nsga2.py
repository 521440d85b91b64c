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
"""Trials per generation; the first generation is random.

Optuna's default, 50, would leave a search of a hundred trials only two generations.
"""


class FrontSampler(DecodingSampler):
    """Optuna's NSGA-II, with uniform crossover and on average one mutation per plan.

    If the front is searched, it optimises value and price. The study stores one value per trial,
    so complete trials are copied to a study in memory with two objectives, in the order of their
    numbers, so that a resumed search has the same copy.
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
        # Optuna caches the parents and returns them in another order from then on. Selecting them
        # first makes the order, and with it the proposal, independent of the cache.
        inner.get_parent_population(copy, inner.get_trial_generation(copy, running))
        proposed = self._by(inner, copy, running, search_space)
        # The trial itself is copied when it is complete.
        copy.tell(running.number, state=TrialState.FAIL)
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
        """Numbers of the trials that have been copied."""
        return set()

    def _add(self, copy: Study, trial: FrozenTrial, price: float) -> None:
        params = {name: value for name, value in trial.params.items() if name in self._open}
        distributions: Space = {name: self._open[name] for name in params}
        running = TrialState.RUNNING
        copy.add_trial(create_trial(state=running, params=params, distributions=distributions))
        added = copy.get_trials(deepcopy=False)[-1]
        self.make(self.seed).get_trial_generation(copy, added)  # stores the generation in the copy
        copy.tell(added.number, [trial.values[0], price])
