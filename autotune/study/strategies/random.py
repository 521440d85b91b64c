"""`random`: a choice for every unit at random, decoded onto the budget."""

from __future__ import annotations

from optuna.samplers import RandomSampler

from autotune.problem.grids import Grids
from autotune.problem.knapsack import Scores
from autotune.problem.problem import Problem
from autotune.study.strategies.base import BudgetedSampler


def random(
    problem: Problem, grids: Grids, *, seed: int, workers: int = 1, scores: Scores | None = None
) -> BudgetedSampler:
    """Uniform over every unit's labels and every grid."""
    return BudgetedSampler(RandomSampler, problem, grids, seed=seed)
