"""`policy`: plans from beliefs about every choice, from a supernet or from trials alone."""

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

PLANS = 100
"""Number of random plans over which scores are scaled to the spread of values."""

VALUE = 0.02
"""Prior spread of values over random plans."""

SHARE = 0.75
"""Prior standard deviation of a choice's score around its prior mean, in units of `VALUE`."""

STEP = 0.75
"""Standard deviation of one step on a hyperparameter's grid, in units of `VALUE`."""

IN_COMMON = 0.9
"""Correlation of these walks: a task that wants one method's rate higher wants all higher."""

KNOWN = 0.2
"""Standard deviation of a step where `scores` say where the grid begins."""

LESS = 0.1
"""Expected loss per step away from where a grid begins, in units of `VALUE`."""

NOISE = 0.5
"""Noise of a trial that ran to its end, in units of `VALUE`."""

PRUNED = 2.0
"""Noise of a trial that was ended early, in units of `VALUE`."""

LEVEL = 10.0
"""Prior standard deviation of what all plans have in common, in units of `VALUE`."""

DRAWS = 20
"""Draws of a plan before one that was tried already is accepted."""

BASE: Entry = ("", "base")


class PolicySampler(PlanSampler):
    """Thompson sampling: draws scores from the belief about choices, decodes them exactly.

    A plan's value is a base, plus a score for each of its choices, plus one for each learning rate
    that is not the middle of its grid. Choices that share a method, a depth or a unit have scores
    in common, so that a few trials inform about all of them. `scores` are the prior's means in any
    unit; the first trial is their best plan, and a choice without a score is never proposed; a
    score of (hyperparameter, value) names the start within its grid. Without scores, more expensive
    choices are believed to be slightly better. The belief is computed anew for every trial from
    the study and (seed, number), so that it works in any study over this space.
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
        """(unit, label) → the mean of its score, once all trials of the study are known."""
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
        """Belief about choices, rates and the base, in units of `VALUE`."""
        parts = [self._prior_of_choices(), self._prior_of_rates()]
        base = Belief(np.zeros(1), np.full((1, 1), LEVEL**2))
        return _independent([*parts, base])

    def _prior_of_choices(self) -> Belief:
        """Around their scores, whose unit is believed to be known to a half."""
        n = len(self._offers)
        mean = self._scaled(as_array(self._entries[:n], self._prior_scores()))
        shape = covariance(self.problem, self._offers)
        shape = SHARE**2 * shape / np.mean(np.diag(shape)) if n else shape
        return Belief(mean, shape + np.outer(mean, mean) / 4)

    def _prior_of_rates(self) -> Belief:
        """A little worse with every step from where each grid begins, maybe better."""
        rates = self._entries[len(self._offers) : -1]
        names, steps = [name for name, _ in rates], np.array([self._step(*rate) for rate in rates])
        known = {name for name, _ in self.scores or {}}
        lengths = np.array([KNOWN if name in known else STEP for name in names])
        walks = _walks(names, steps) * np.outer(lengths, lengths)
        return Belief(-LESS * np.abs(steps).astype(float), walks)

    def _prior_scores(self) -> Scores:
        """Scores as passed; without any, more expensive choices are a little better."""
        if self.scores is not None:
            return self.scores
        offers = self._offers
        return {(unit, c.label): sqrt(self.problem.price(unit, c)) for unit, c in offers}

    def _step(self, name: str, value: str) -> int:
        """Steps of a value from where its grid begins: where `scores` say so, or at its middle."""
        grid = [str(v) for v in sorted(self.grids[name])]
        preferred = [v for v in grid if (self.scores or {}).get((name, v))]
        first = preferred[0] if preferred else str(middle(self.grids[name]))
        return grid.index(value) - grid.index(first)

    def _scaled(self, scores: Floats) -> Floats:
        """Scores with a spread of 1 over random plans."""
        plans = [random_placement(self.problem, self.seed + i) for i in range(PLANS)]
        entries = self._entries[: len(scores)]
        sums = as_rows(entries, [_terms(plan) for plan in plans]) @ scores
        level, spread = float(np.abs(sums).mean()), float(sums.std())
        unit = spread if spread > level / 1e6 else level  # less is rounding
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
    """A trial that ended."""

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
    """Every training that ended, once."""
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
    """Trainings that were begun, whatever came of them."""
    begun = [t.params for t in study.get_trials(deepcopy=False) if t.number < before]
    return {_key(plan_of(problem, params), hyperparameters_of(params)) for params in begun}


def _key(plan: Plan, hyperparameters: Mapping[str, Any]) -> tuple[str, str]:
    return plan.digest, str(sorted(used(plan, hyperparameters).items()))


def _value(trial: FrozenTrial, ended: Sequence[FrozenTrial]) -> float | None:
    """Final value; for a trial ended early, plus what complete trials gained after that step."""
    step = trial.last_step
    if trial.state is TrialState.COMPLETE or step is None:
        return trial.value
    curves = [other.intermediate_values for other in ended if other.state is TrialState.COMPLETE]
    gains = [curve[max(curve)] - curve[step] for curve in curves if step in curve]
    return trial.intermediate_values[step] + (float(np.mean(gains)) if gains else 0.0)


def _terms(plan: Plan) -> list[Entry]:
    return [(unit, plan[unit].label) for unit in plan]


def _independent(parts: Sequence[Belief]) -> Belief:
    """Independent beliefs as one."""
    mean = np.concatenate([part.mean for part in parts])
    covariance = np.zeros((len(mean), len(mean)))
    at = 0
    for part in parts:
        end = at + len(part.mean)
        covariance[at:end, at:end] = part.covariance
        at = end
    return Belief(mean, covariance)


def _walks(names: Sequence[str], steps: NDArray[np.int64]) -> Floats:
    """Covariance of walks of length 1 a step, in both directions from 0, mostly in common."""
    same_side = (steps[:, None] * steps) > 0
    length = np.minimum(np.abs(steps[:, None]), np.abs(steps))
    same = np.array(names)[:, None] == np.array(names)
    walks: Floats = np.where(same_side, length, 0.0) * np.where(same, 1.0, IN_COMMON)
    return walks


def _fitted_scale(prior: Belief, rows: Floats, values: Floats, noise: Floats) -> float:
    """The unit of values under which they are the most likely; `VALUE` while there are few."""
    if len(values) < 3:
        return VALUE
    scales: Floats = VALUE * 2.0 ** np.arange(-3.0, 14.0)

    likelihood = prior.evidence(Observation(rows, values, noise), scales)
    return float(scales[np.argmax(likelihood - np.log2(scales / VALUE) ** 2 / 8)])
