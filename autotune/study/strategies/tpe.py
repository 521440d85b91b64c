"""`tpe`: multivariate tree-structured Parzen estimators (Bergstra et al. 2011), decoded."""

from __future__ import annotations

import warnings

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import TPESampler

from autotune.problem.grids import Grids
from autotune.problem.knapsack import Scores
from autotune.problem.problem import Problem
from autotune.study.strategies.base import BudgetedSampler


def tpe(
    problem: Problem, grids: Grids, *, seed: int, workers: int = 1, scores: Scores | None = None
) -> BudgetedSampler:
    """Optuna's multivariate TPE; with several workers, running trials count as bad ones."""

    def make(seed: int) -> TPESampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return TPESampler(seed=seed, multivariate=True, constant_liar=workers > 1)

    return BudgetedSampler(make, problem, grids, seed=seed)
