"""Stopping rules: which trials end early. All decide by the record alone and write nothing.

So a driver that takes over decides as the one before would have, whatever the backend. (Optuna's
own successive halving and Hyperband mark a trial before it is stopped.)
"""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from optuna.pruners import BasePruner, MedianPruner, NopPruner
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from autotune.utils.registry import Registry

Floats = NDArray[np.float64]

FEWEST_TRIALS = 5
"""Trials that must have come so far before one of them may end."""

BRACKETS = 3
"""Hyperband brackets: a third of the trials are first compared after 1/8 of their steps, a third
after 1/4, a third after 1/2."""

KNOWN = 8
"""Complete trials that `forecast` needs before it predicts final values."""

LUCK = 2.5
"""Standard deviations by which `forecast` lets a trial exceed its prediction.

On the enumerated tables this saves a third of the epochs of random plans, and the front is lower
by less than a tenth of the error of one training.
"""

CHANCE = 0.1
"""Probability that `wilcoxon` ends a trial that is as good as the best on every fold."""

PRUNERS = Registry(
    "pruner",
    {
        "auto": "autotune.study.pruners:halving",
        "race": "autotune.study.pruners:race",
        "halving": "autotune.study.pruners:halving",
        "hyperband": "autotune.study.pruners:hyperband",
        "forecast": "autotune.study.pruners:forecast",
        "median": "autotune.study.pruners:median",
        "wilcoxon": "autotune.study.pruners:by_folds",
        "none": "autotune.study.pruners:none",
    },
)
"""Name → pruner for a number of steps; `auto` is one of the others."""


def choose_pruner(name: str, strategy_default: str, folds: int, objective: str = "") -> str:
    """The pruner that `auto` stands for: the strategy's default, where it has one.

    Otherwise halving, Wilcoxon with folds, and where the front is asked for the forecast, which
    ends only what has no chance.
    """
    if name != "auto":
        return name
    usual = "forecast" if objective else "wilcoxon" if folds else "halving"
    return strategy_default or usual


class Priced(BasePruner):
    """Compares a trial only with those that are no more expensive, where the front is asked for.

    So no plan of the front is ended because of a more expensive one.
    """

    def __init__(self) -> None:
        self.price: Callable[[FrozenTrial], float] | None = None
        """The second objective of a stored trial."""

    def others_at(
        self, study: Study, trial: FrozenTrial, step: int, states: tuple[TrialState, ...] | None
    ) -> list[FrozenTrial]:
        """Other trainings that got to a step, whatever they cost."""
        return [
            other
            for other in study.get_trials(deepcopy=False, states=states)
            if step in other.intermediate_values
            and other.number != trial.number
            and not _is_repeat(other)
        ]

    def not_more_expensive(
        self, trial: FrozenTrial, others: Sequence[FrozenTrial]
    ) -> list[FrozenTrial]:
        """The trials among them that a trial is compared with."""
        price = self.price
        return [o for o in others if price is None or price(o) <= price(trial)]


class Ended:
    """Values at every step of the trainings that ended, in order; it grows with the record."""

    def __init__(self) -> None:
        self._begin(None)

    def _begin(self, study: Study | None) -> None:
        self._study = study
        self._seen, self._open = 0, list[int]()
        self._at: dict[int, list[float]] = {}

    def look(self, study: Study) -> list[FrozenTrial]:
        """Take note of what has ended since; the trials that have not."""
        if study is not self._study:
            self._begin(study)
        trials = study.get_trials(deepcopy=False)
        waiting, self._open = [*self._open, *range(self._seen, len(trials))], []
        self._seen = len(trials)
        for number in waiting:
            if trials[number].state.is_finished():
                self._add(trials[number])
            else:
                self._open.append(number)
        return [trials[number] for number in self._open]

    def at(self, step: int) -> Sequence[float]:
        """The values, the lowest first; one that is no number is the lowest."""
        return self._at.get(step, ())

    def _add(self, trial: FrozenTrial) -> None:
        if not _is_repeat(trial):
            for step, value in trial.intermediate_values.items():
                insort(self._at.setdefault(step, []), -math.inf if math.isnan(value) else value)


def _is_repeat(trial: FrozenTrial) -> bool:
    return "repeat_of" in trial.user_attrs.get("record", {})


class Halving(Priced):
    """Successive halving (arXiv 1810.05934): at steps n, 2n, 4n, … the better half continues."""

    def __init__(self, first: int, fewest: int) -> None:
        super().__init__()
        self.first, self.fewest = first, fewest
        self._ended = Ended()

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        step = trial.last_step
        if step is None or not self._is_rung(trial.number, step):
            return False
        value = trial.intermediate_values[step]
        if math.isnan(value):
            return True
        n, better = self._others(study, trial, step)
        return 1 + n >= self.fewest and better > max((1 + n) // 2 - 1, 0)

    def _others(self, study: Study, trial: FrozenTrial, step: int) -> tuple[int, int]:
        """Trials that it is compared with at a step, and those of them that are better."""
        value = trial.intermediate_values[step]
        if self.price is not None:
            others = self.not_more_expensive(trial, self.others_at(study, trial, step, None))
            return len(others), sum(o.intermediate_values[step] > value for o in others)
        running = [t for t in self._ended.look(study) if t.number != trial.number]
        values = [t.intermediate_values[step] for t in running if step in t.intermediate_values]
        ended = self._ended.at(step)
        above = len(ended) - bisect_right(ended, value)
        return len(ended) + len(values), above + sum(other > value for other in values)

    def _is_rung(self, number: int, step: int) -> bool:
        times, rest = divmod(step, self.first_of(number))
        return rest == 0 and times > 0 and times & (times - 1) == 0

    def first_of(self, number: int) -> int:
        """The first step at which a trial is compared."""
        return self.first


class Hyperband(Halving):
    """Brackets of successive halving (arXiv 1603.06560) that begin at steps n, 2n, 4n in turn."""

    def first_of(self, number: int) -> int:
        return self.first << number % BRACKETS


class Forecast(Priced):
    """End a trial that is unlikely to exceed the best value of the trials that cost no more.

    Its final value is forecast from complete trials: a least-squares line from their values at the
    same step to their final ones, plus a number of standard deviations of the residuals.
    """

    def __init__(self, first: int) -> None:
        super().__init__()
        self.first = first

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        step = trial.last_step
        if step is None or step < self.first:
            return False
        value = trial.intermediate_values[step]
        complete = self.others_at(study, trial, step, (TrialState.COMPLETE,))
        cheaper = self.not_more_expensive(trial, complete)
        if len(complete) < KNOWN or not cheaper or math.isnan(value):
            return math.isnan(value)
        reached = max(other.values[0] for other in cheaper)
        then = np.array([other.intermediate_values[step] for other in complete])
        ended = np.array([other.values[0] for other in complete])
        return bool(_with_luck(value, then, ended) <= reached)


class Wilcoxon(BasePruner):
    """Ends a trial that is worse than the best one on the same folds, by a signed-rank test.

    The recorded values are means over the folds so far.
    """

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        ended = [t for t in complete if t.intermediate_values]
        if not ended or not trial.intermediate_values:
            return False
        best = max(ended, key=lambda t: t.intermediate_values[max(t.intermediate_values)])
        pairs = zip(_by_fold(trial), _by_fold(best), strict=False)
        differences = [value - leading for value, leading in pairs]
        if not any(differences):
            return False
        from scipy.stats import wilcoxon  # a second to import

        return bool(wilcoxon(differences, alternative="less").pvalue < CHANCE)


def _with_luck(value: float, then: Floats, ended: Floats) -> float:
    """Final value of a trial that is at `value` now, if it is a lucky one."""
    off = then - then.mean()
    slope = float(off @ ended / (off @ off)) if off.any() else 0.0
    left = ended - ended.mean() - slope * off
    return float(ended.mean() + slope * (value - then.mean()) + LUCK * left.std())


def _by_fold(trial: FrozenTrial) -> Sequence[float]:
    means = [value for _, value in sorted(trial.intermediate_values.items())]
    sums = [mean * n for n, mean in enumerate(means, 1)]
    return [after - before for before, after in zip([0.0, *sums], sums, strict=False)]


def halving(steps: int) -> BasePruner:
    """Pruner for many trials: successive halving from a quarter of the steps."""
    return Halving(max(1, steps // 4), FEWEST_TRIALS)


def hyperband(steps: int) -> BasePruner:
    """Pruner for many trials of which good ones may start slowly: Hyperband brackets."""
    return Hyperband(max(1, steps // 2**BRACKETS), FEWEST_TRIALS)


def forecast(steps: int) -> BasePruner:
    """Pruner for a Pareto front: ends only trials that are unlikely to be on it."""
    return Forecast(max(1, steps // 4))


def race(steps: int) -> BasePruner:
    """Pruner for few trials: after half of its steps a trial must be ahead of all others."""
    return Halving(math.ceil(steps / 2), 2)


def median(steps: int) -> BasePruner:
    """Optuna's median rule: below the median of complete trials after a quarter of the steps."""
    return MedianPruner(n_startup_trials=FEWEST_TRIALS - 1, n_warmup_steps=max(1, steps // 4) - 1)


def by_folds(steps: int) -> BasePruner:
    """Pruner for trials whose steps are folds: a Wilcoxon test."""
    return Wilcoxon()


def none(steps: int) -> BasePruner:
    """Every trial runs to its end."""
    return NopPruner()
