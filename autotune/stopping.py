"""Stopping rules: which trials end early. All decide by the record alone and write nothing.

So a driver that takes over decides as the one before would have, whatever the backend. (Optuna's
own successive halving and Hyperband mark a trial before it is stopped.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from optuna.pruners import BasePruner, MedianPruner, NopPruner
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from scipy.stats import wilcoxon

from autotune.registry import Registry

FEWEST = 5
"""Trials that must have come so far before one of them may end."""

BRACKETS = 3
"""Of Hyperband: a trial in three begins to be compared late, one in three in the middle."""

CHANCE = 0.1
"""Of a trial that is as good as the best on every fold to be ended by `wilcoxon`."""

PRUNERS = Registry(
    "pruner",
    {
        "auto": "autotune.stopping:halving",
        "race": "autotune.stopping:race",
        "halving": "autotune.stopping:halving",
        "hyperband": "autotune.stopping:hyperband",
        "median": "autotune.stopping:median",
        "wilcoxon": "autotune.stopping:by_folds",
        "none": "autotune.stopping:none",
    },
)
"""Name → pruner for a number of steps; `auto` is one of the others."""

_BY_STRATEGY = {
    "policy": "race",
    **dict.fromkeys(("greedy", "proxy", "bruteforce", "profile"), "none"),
}


def choose_pruner(name: str, strategy: str, folds: int, objective: str = "") -> str:
    """What `auto` means: few trials race, a listed plan runs to its end, others by halving."""
    if name != "auto":
        return name
    usual = "wilcoxon" if folds and not objective else "halving"
    return _BY_STRATEGY.get(strategy, usual)


class Halving(BasePruner):
    """Successive halving (arXiv 1810.05934): at steps n, 2n, 4n, … the better half goes on."""

    def __init__(self, first: int, fewest: int) -> None:
        self.first, self.fewest = first, fewest
        self.price: Callable[[FrozenTrial], float] | None = None
        """With a second objective: a trial is compared with those that are no dearer alone, so
        that nothing of the front is lost to a dearer plan."""

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        step = trial.last_step
        if step is None or not self._is_rung(trial.number, step):
            return False
        mine, price = trial.intermediate_values[step], self.price
        others = (
            other.intermediate_values[step]
            for other in study.get_trials(deepcopy=False)
            if step in other.intermediate_values
            and other.number != trial.number
            and "repeat_of" not in other.user_attrs.get("record", {})
            and (price is None or price(other) <= price(trial))
        )
        values = sorted((mine, *others), reverse=True)
        if len(values) < self.fewest and not math.isnan(mine):
            return False
        return math.isnan(mine) or mine < values[max(len(values) // 2 - 1, 0)]

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
        differences = [mine - theirs for mine, theirs in pairs]
        if not any(differences):
            return False
        return bool(wilcoxon(differences, alternative="less").pvalue < CHANCE)


def _by_fold(trial: FrozenTrial) -> Sequence[float]:
    means = [value for _, value in sorted(trial.intermediate_values.items())]
    sums = [mean * n for n, mean in enumerate(means, 1)]
    return [after - before for before, after in zip([0.0, *sums], sums, strict=False)]


def halving(steps: int) -> BasePruner:
    """For many trials: from a quarter of their steps on."""
    return Halving(max(1, steps // 4), FEWEST)


def hyperband(steps: int) -> BasePruner:
    """For many trials of which good ones may begin slowly."""
    return Hyperband(max(1, steps // 2**BRACKETS), FEWEST)


def race(steps: int) -> BasePruner:
    """For few trials: one that is not ahead of the others in the middle of its steps ends there."""
    return Halving(math.ceil(steps / 2), 2)


def median(steps: int) -> BasePruner:
    """Optuna's median rule: below the median of complete trials after a quarter of the steps."""
    return MedianPruner(n_startup_trials=FEWEST - 1, n_warmup_steps=max(1, steps // 4) - 1)


def by_folds(steps: int) -> BasePruner:
    """For trials whose steps are folds."""
    return Wilcoxon()


def none(steps: int) -> BasePruner:
    """Every trial runs to its end."""
    return NopPruner()
