"""`policy`: Thompson sampling of plans, with scores of choices from a supernet as the prior."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.samplers import RandomSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from autotune.problem.grids import Grids, middle
from autotune.problem.job import used
from autotune.problem.knapsack import Scores, best_plan
from autotune.problem.plan import Choice, Plan
from autotune.problem.problem import Problem, entries_of
from autotune.problem.sampling import random_placement, seed_of
from autotune.study.policy.belief import (
    Belief,
    Entry,
    Floats,
    Observation,
    as_array,
    as_rows,
    covariance,
)
from autotune.study.strategies.base import (
    PREFIX,
    PlanSampler,
    Space,
    hyperparameters_of,
    plan_of,
)
from autotune.study.strategies.score_source import ScoreSource

# Prior of the scores. These constants are not critical: on tables of all plans of a small space,
# smaller spreads and larger noise changed regrets by less than their standard error
# (docs/policy.md).

PLANS = 100
"""Number of random plans on which the spread of prior scores is estimated, to within a tenth."""

VALUE = 0.02
"""Standard deviation of values over random plans, in the metric's unit.

It is assumed until three trials have ended, and then fitted.
"""

SHARE = 0.75
"""Standard deviation of a choice's score around its prior mean, in units of `VALUE`."""

STEP = 0.75
"""Standard deviation of one step on a hyperparameter's grid, in units of `VALUE`."""

IN_COMMON = 0.9
"""Correlation between hyperparameters: if one method needs a higher rate, so do most others."""

KNOWN = 0.2
"""Standard deviation of a step if `scores` name the preferred value, in units of `VALUE`."""

LESS = 0.1
"""Expected loss per step away from the preferred value of a grid, in units of `VALUE`."""

NOISE = 0.5
"""Standard deviation of the noise of a complete trial, in units of `VALUE`."""

PRUNED = 2.0
"""Standard deviation of the noise of a pruned trial, in units of `VALUE`.

Larger than `NOISE`, since its final value is extrapolated.
"""

LEVEL = 10.0
"""Standard deviation of the value that all plans have in common, in units of `VALUE`.

Much larger than all others, so that the trials alone determine it.
"""

DRAWS = 20
"""Maximum number of draws until one was not tried before; after them a repeat is proposed.

In a search a repeat costs no training, since the record answers it.
"""

BASE: Entry = ("", "base")
"""Entry of the value that all plans have in common."""


class PolicySampler(PlanSampler):
    """Thompson sampling: draws scores of choices from a Gaussian posterior and solves a knapsack.

    The value of a plan is modelled as a base plus a score for each choice and each learning rate.
    Scores of choices with a common method, depth or unit are correlated, so that few trials inform
    all of them.

    `scores` are the prior means in any unit. The first trial is their best plan, and choices that
    are missing from them are not proposed. A score of (hyperparameter, value) marks the preferred
    value of a grid, which otherwise is its middle. Without `scores`, more expensive choices have a
    slightly larger mean. The posterior is computed for every trial from the study and
    (seed, number), so that the sampler works in any study over this space.
    """

    default_trials = 3  # confirms a plan and its nearest competitors
    default_pruner = "race"
    score_source = ScoreSource.POLICY

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: Space
    ) -> dict[str, Any]:
        tried = _tried(self.problem, study, before=trial.number)
        belief, seen = self._belief(tried)
        known = _known(self.problem, study, before=trial.number)
        for draw in range(DRAWS):
            generator = np.random.default_rng(seed_of(self.seed, trial.number, draw))
            certain = self.scores is not None and not tried and draw == 0
            scores = belief.after(seen) if certain else belief.drawn(seen, generator)
            plan, chosen = self._best(dict(zip(self._entries, scores.tolist(), strict=True)))
            if _key(plan, chosen) not in known:
                break
        labels = {PREFIX + unit: plan[unit].label for unit in self.problem.units}
        return {name: value for name, value in (labels | chosen).items() if name in search_space}

    def believed(self, study: Study) -> Scores:
        """(unit, label) → posterior mean of its score given all trials of the study."""
        belief, seen = self._belief(_tried(self.problem, study))
        return dict(zip(self._entries, belief.after(seen).tolist(), strict=True))

    def _alone(self, study: Study, trial: FrozenTrial, name: str, distribution: Any) -> Any:
        if name not in self.space:
            sampler = RandomSampler(seed_of(self.seed, trial.number))
            return sampler.sample_independent(study, trial, name, distribution)
        return self.sample_relative(study, trial, {name: distribution})[name]

    @cached_property
    def _entries(self) -> list[Entry]:
        steps = [(name, str(value)) for name, grid in self.grids.items() for value in grid]
        return [(u, c.label) for u, c in self._offers] + steps + [BASE]

    @cached_property
    def _offers(self) -> list[tuple[str, Choice]]:
        offers = entries_of(self.problem)
        if self.scores is None:
            return offers
        return [(unit, choice) for unit, choice in offers if (unit, choice.label) in self.scores]

    @cached_property
    def _prior(self) -> Belief:
        """Prior of the scores of choices, rates and the base, in units of `VALUE`."""
        parts = [self._prior_of_choices(), self._prior_of_rates()]
        base = Belief(np.zeros(1), np.full((1, 1), LEVEL**2))
        return _independent([*parts, base])

    def _prior_of_choices(self) -> Belief:
        """Prior around the given scores, whose unit is uncertain by a factor of 1 ± 1/2."""
        n = len(self._offers)
        mean = self._scaled(as_array(self._entries[:n], self._prior_scores()))
        shape = covariance(self.problem, self._offers)
        shape = SHARE**2 * shape / np.mean(np.diag(shape)) if n else shape
        return Belief(mean, shape + np.outer(mean, mean) / 4)

    def _prior_of_rates(self) -> Belief:
        """Prior under which rates are expected to be worse with every step from the preferred."""
        rates = self._entries[len(self._offers) : -1]
        names, steps = [name for name, _ in rates], np.array([self._step(*rate) for rate in rates])
        known = {name for name, _ in self.scores or {}}
        lengths = np.array([KNOWN if name in known else STEP for name in names])
        walks = _walks(names, steps) * np.outer(lengths, lengths)
        return Belief(-LESS * np.abs(steps).astype(float), walks)

    def _prior_scores(self) -> Scores:
        """Given scores; without any, the square root of the price."""
        if self.scores is not None:
            return self.scores
        offers = self._offers
        return {(unit, c.label): sqrt(self.problem.price(unit, c)) for unit, c in offers}

    def _step(self, name: str, value: str) -> int:
        """Signed number of grid steps from the preferred value: by `scores`, or the middle."""
        grid = [str(v) for v in sorted(self.grids[name])]
        preferred = [v for v in grid if (self.scores or {}).get((name, v))]
        first = preferred[0] if preferred else str(middle(self.grids[name]))
        return grid.index(value) - grid.index(first)

    def _scaled(self, scores: Floats) -> Floats:
        """Scores scaled to a standard deviation of 1 over random plans."""
        plans = [random_placement(self.problem, self.seed + i) for i in range(PLANS)]
        entries = self._entries[: len(scores)]
        sums = as_rows(entries, [_terms(plan) for plan in plans]) @ scores
        level, spread = float(np.abs(sums).mean()), float(sums.std())
        unit = spread if spread > level / 1e6 else level  # a smaller spread is rounding
        return scores / unit if unit > 0 else np.zeros_like(scores)

    def _belief(self, tried: Sequence[_Tried]) -> tuple[Belief, Observation]:
        rows = as_rows(self._entries, [t.terms(self.grids) for t in tried])
        values = np.array([t.value for t in tried])
        noise = np.array([PRUNED if t.is_pruned else NOISE for t in tried])
        centred = values - values.mean() if len(values) else values
        scale = _fitted_scale(self._prior, rows, centred, noise)
        return self._prior, Observation(rows, centred / scale, noise)

    def _best(self, scores: Mapping[Entry, float]) -> tuple[Plan, dict[str, Any]]:
        plan = best_plan(self.problem, scores)
        chosen = {
            name: max(grid, key=lambda value, name=name: scores[name, str(value)])  # type: ignore[misc]
            for name, grid in self.grids.items()
        }
        return plan, chosen


@dataclass(frozen=True)
class _Tried:
    """Training that ended."""

    plan: Plan
    hyperparameters: Mapping[str, float]
    value: float
    """Larger is better."""

    is_pruned: bool

    def terms(self, grids: Grids) -> list[Entry]:
        settings = used(self.plan, self.hyperparameters)
        rates = [(name, str(settings[name])) for name in grids if name in settings]
        return [*_terms(self.plan), *rates, BASE]


def _tried(problem: Problem, study: Study, *, before: int | None = None) -> list[_Tried]:
    """Complete and pruned trainings with a finite value, without repeats."""
    sign = -1.0 if study.direction is StudyDirection.MINIMIZE else 1.0
    states = (TrialState.COMPLETE, TrialState.PRUNED)
    ended = study.get_trials(deepcopy=False, states=states)
    ended = [t for t in ended if before is None or t.number < before]
    tried: dict[tuple[str, str], _Tried] = {}
    for trial in ended:
        value = _value(trial, ended)
        if value is None or not np.isfinite(value):
            continue
        plan, rates = plan_of(problem, trial.params), hyperparameters_of(trial.params)
        one = _Tried(plan, rates, sign * value, trial.state is TrialState.PRUNED)
        tried.setdefault(_key(plan, rates), one)
    return [*tried.values()]


def _known(problem: Problem, study: Study, *, before: int) -> set[tuple[str, str]]:
    """Keys of all trainings that were started, in any state."""
    begun = [t.params for t in study.get_trials(deepcopy=False) if t.number < before]
    return {_key(plan_of(problem, params), hyperparameters_of(params)) for params in begun}


def _key(plan: Plan, hyperparameters: Mapping[str, Any]) -> tuple[str, str]:
    return plan.digest, str(sorted(used(plan, hyperparameters).items()))


def _value(trial: FrozenTrial, ended: Sequence[FrozenTrial]) -> float | None:
    """Final value of a trial, extrapolated for a pruned one.

    The extrapolation adds the mean gain of complete trials after its last step.
    """
    step = trial.last_step
    if trial.state is TrialState.COMPLETE or step is None:
        return trial.value
    curves = [other.intermediate_values for other in ended if other.state is TrialState.COMPLETE]
    gains = [curve[max(curve)] - curve[step] for curve in curves if step in curve]
    return trial.intermediate_values[step] + (float(np.mean(gains)) if gains else 0.0)


def _terms(plan: Plan) -> list[Entry]:
    return [(unit, plan[unit].label) for unit in plan]


def _independent(parts: Sequence[Belief]) -> Belief:
    """Joint belief of independent ones."""
    mean = np.concatenate([part.mean for part in parts])
    covariance = np.zeros((len(mean), len(mean)))
    at = 0
    for part in parts:
        end = at + len(part.mean)
        covariance[at:end, at:end] = part.covariance
        at = end
    return Belief(mean, covariance)


def _walks(names: Sequence[str], steps: NDArray[np.int64]) -> Floats:
    """Covariance of random walks in both directions from step 0, with unit variance per step.

    Walks of different names have the correlation `IN_COMMON`.
    """
    same_side = (steps[:, None] * steps) > 0
    length = np.minimum(np.abs(steps[:, None]), np.abs(steps))
    same = np.array(names)[:, None] == np.array(names)
    walks: Floats = np.where(same_side, length, 0.0) * np.where(same, 1.0, IN_COMMON)
    return walks


def _fitted_scale(prior: Belief, rows: Floats, values: Floats, noise: Floats) -> float:
    """Unit of the values with the largest posterior probability; `VALUE` for fewer than three.

    The prior of its log₂ is a Gaussian around `VALUE` with a standard deviation of 2.
    """
    if len(values) < 3:
        return VALUE
    scales: Floats = VALUE * 2.0 ** np.arange(-3.0, 14.0)

    likelihood = prior.evidence(Observation(rows, values, noise), scales)
    return float(scales[np.argmax(likelihood - np.log2(scales / VALUE) ** 2 / 8)])
