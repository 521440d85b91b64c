"""`gp`: a Gaussian process over all categories with expected improvement, decoded."""

from __future__ import annotations

import warnings

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import GPSampler

from autotune.problem.grids import Grids
from autotune.problem.knapsack import Scores
from autotune.problem.problem import Problem
from autotune.study.strategies.base import BudgetedSampler


def gp(
    problem: Problem, grids: Grids, *, seed: int, workers: int = 1, scores: Scores | None = None
) -> BudgetedSampler:
    """Optuna's Gaussian process; its first ten plans are random."""

    def make(seed: int) -> GPSampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return GPSampler(seed=seed, deterministic_objective=False)

    return BudgetedSampler(make, problem, grids, seed=seed)
