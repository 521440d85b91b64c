"""`nsga2`: a genetic algorithm with elitist selection (Deb et al. 2002), decoded."""

from __future__ import annotations

from optuna.samplers import NSGAIISampler

from autotune.knapsack import Scores
from autotune.problem import Problem
from autotune.strategies.base import BudgetedSampler, Grids

POPULATION = 20
"""Trials a generation; the first is random."""


def nsga2(
    problem: Problem, grids: Grids, *, seed: int, workers: int = 1, scores: Scores | None = None
) -> BudgetedSampler:
    """Optuna's NSGA-II: uniform crossover, one mutation a plan in the mean."""

    def make(seed: int) -> NSGAIISampler:
        return NSGAIISampler(seed=seed, population_size=POPULATION)

    return BudgetedSampler(make, problem, grids, seed=seed)
