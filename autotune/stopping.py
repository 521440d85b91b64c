"""The stopping rule: which trials end early."""

from __future__ import annotations

import math

from optuna.pruners import BasePruner
from optuna.study import Study
from optuna.trial import FrozenTrial

FEWEST = 5
"""Trials that must have come so far before one of them may end."""


def halving(steps: int) -> Halving:
    """For many trials: from a quarter of their steps on."""
    return Halving(max(1, steps // 4), FEWEST)


def race(steps: int) -> Halving:
    """For few trials: one that is not ahead of the others in the middle of its steps ends there."""
    return Halving(math.ceil(steps / 2), 2)


class Halving(BasePruner):
    """Successive halving (arXiv 1810.05934): at steps n, 2n, 4n, … the better half goes on.

    It decides by the recorded values alone and writes nothing, so that a driver that takes over
    decides as the one before would have. (Optuna's own marks a trial before it is stopped.)
    """

    def __init__(self, first: int, fewest: int) -> None:
        self.first, self.fewest = first, fewest

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        step = trial.last_step
        if step is None or not self._is_rung(step):
            return False
        mine = trial.intermediate_values[step]
        others = (
            other.intermediate_values[step]
            for other in study.get_trials(deepcopy=False)
            if step in other.intermediate_values
            and other.number != trial.number
            and "repeat_of" not in other.user_attrs.get("record", {})
        )
        values = sorted((mine, *others), reverse=True)
        if len(values) < self.fewest and not math.isnan(mine):
            return False
        return math.isnan(mine) or mine < values[max(len(values) // 2 - 1, 0)]

    def _is_rung(self, step: int) -> bool:
        times, rest = divmod(step, self.first)
        return rest == 0 and times > 0 and times & (times - 1) == 0
