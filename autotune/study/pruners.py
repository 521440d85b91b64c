"""Pruners, which decide whether a trial ends early, from the record alone and without writing.

A driver that takes over a study therefore decides as its predecessor would have, on any backend.
Optuna's own successive halving and Hyperband write to the trial that they judge.
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
"""Number of trials that must have reached a step before one of them may end there.

With fewer, being among the worse half says little. Optuna's `MedianPruner` also waits for five.
"""

BRACKETS = 3
"""Number of Hyperband brackets.

A third of the trials each is first compared after 1/8, 1/4 and 1/2 of the steps.
"""

KNOWN = 8
"""Number of complete trials that `forecast` needs before it predicts final values.

Its line has two coefficients; fewer trials leave too little to estimate the spread around it.
"""

LUCK = 2.5
"""Number of standard deviations by which `forecast` allows a trial to exceed its prediction.

On tables of all plans of a small space this saves a third of the epochs of random plans, and
lowers the front by less than a tenth of the error of one training (docs/strategies.md).
"""

CHANCE = 0.1
"""Significance level of `wilcoxon`; Optuna's `WilcoxonPruner` has the same default.

It is the probability of ending a trial that is as good as the best one on every fold.
"""

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
"""Name → function from the number of steps to a pruner; `choose_pruner` resolves `auto`."""


def choose_pruner(name: str, strategy_default: str, folds: int, objective: str = "") -> str:
    """Name of the pruner to use; `auto` is the strategy's default, if it has one.

    Otherwise `auto` is `forecast` for an objective with a price, since it keeps every trial that
    may reach the front, `wilcoxon` with folds, and else `halving`.
    """
    if name != "auto":
        return name
    usual = "forecast" if objective else "wilcoxon" if folds else "halving"
    return strategy_default or usual


class Priced(BasePruner):
    """Pruner that, with a price, compares a trial only with those that are no more expensive.

    Otherwise expensive plans would end cheaper ones that belong to the Pareto front.
    """

    def __init__(self) -> None:
        self.price: Callable[[FrozenTrial], float] | None = None
        """Function that returns the second objective of a stored trial; None without one."""

    def others_at(
        self, study: Study, trial: FrozenTrial, step: int, states: tuple[TrialState, ...] | None
    ) -> list[FrozenTrial]:
        """Other trials that reached a step, at any price; without repeats."""
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
        """Those of `others` that cost at most as much as `trial`; all of them without a price."""
        price = self.price
        return [o for o in others if price is None or price(o) <= price(trial)]


class Ended:
    """Sorted values of ended trials at each step, updated incrementally.

    Reading all trials again at every step would cost time quadratic in their number.
    """

    def __init__(self) -> None:
        self._begin(None)

    def _begin(self, study: Study | None) -> None:
        self._study = study
        self._seen, self._open = 0, list[int]()
        self._at: dict[int, list[float]] = {}

    def look(self, study: Study) -> list[FrozenTrial]:
        """Add the trials that ended since the last call, and return those that have not."""
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
        """Values at `step` in ascending order, with NaN as -inf."""
        return self._at.get(step, ())

    def _add(self, trial: FrozenTrial) -> None:
        if not _is_repeat(trial):
            for step, value in trial.intermediate_values.items():
                insort(self._at.setdefault(step, []), -math.inf if math.isnan(value) else value)


def _is_repeat(trial: FrozenTrial) -> bool:
    return "repeat_of" in trial.user_attrs.get("record", {})


class Halving(Priced):
    """Asynchronous successive halving (arXiv 1810.05934).

    At steps n, 2n, 4n, … a trial continues if it is in the better half of those that got there.
    """

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
        """Number of trials that `trial` is compared with at a step, and of those better than it."""
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
        """First step at which trial `number` is compared."""
        return self.first


class Hyperband(Halving):
    """Hyperband (arXiv 1603.06560): brackets of halving that start at steps n, 2n, 4n in turn."""

    def first_of(self, number: int) -> int:
        return self.first << number % BRACKETS


class Forecast(Priced):
    """Ends a trial whose optimistic forecast does not beat the best trial that costs no more.

    The forecast is a least-squares line from values at the same step to final values of complete
    trials, plus `LUCK` standard deviations of its residuals.
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

    The recorded value at a step is the mean over the folds so far.
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
        from scipy.stats import wilcoxon  # late: a second

        return bool(wilcoxon(differences, alternative="less").pvalue < CHANCE)


def _with_luck(value: float, then: Floats, ended: Floats) -> float:
    """Optimistic final value of a trial that is at `value` now.

    `then` and `ended` are (trials,): values of complete trials at the same step and at the end.
    """
    off = then - then.mean()
    slope = float(off @ ended / (off @ off)) if off.any() else 0.0
    residuals = ended - ended.mean() - slope * off
    return float(ended.mean() + slope * (value - then.mean()) + LUCK * residuals.std())


def _by_fold(trial: FrozenTrial) -> Sequence[float]:
    """Value of each fold, from the recorded means over the folds so far."""
    means = [value for _, value in sorted(trial.intermediate_values.items())]
    sums = [mean * n for n, mean in enumerate(means, 1)]
    return [after - before for before, after in zip([0.0, *sums], sums, strict=False)]


def halving(steps: int) -> BasePruner:
    """Halving from a quarter of the steps on, for many trials."""
    return Halving(max(1, steps // 4), FEWEST_TRIALS)


def hyperband(steps: int) -> BasePruner:
    """Hyperband, for many trials of which good ones may start slowly."""
    return Hyperband(max(1, steps // 2**BRACKETS), FEWEST_TRIALS)


def forecast(steps: int) -> BasePruner:
    """Forecast from a quarter of the steps on, for the Pareto front."""
    return Forecast(max(1, steps // 4))


def race(steps: int) -> BasePruner:
    """Halving after half of the steps, for few trials: already two are compared."""
    return Halving(math.ceil(steps / 2), 2)


def median(steps: int) -> BasePruner:
    """Optuna's median rule after a quarter of the steps: trials below the median end."""
    return MedianPruner(n_startup_trials=FEWEST_TRIALS - 1, n_warmup_steps=max(1, steps // 4) - 1)


def by_folds(steps: int) -> BasePruner:
    """Signed-rank test against the best trial, for trials whose steps are folds."""
    return Wilcoxon()


def none(steps: int) -> BasePruner:
    """No pruning: every trial runs to its end."""
    return NopPruner()
