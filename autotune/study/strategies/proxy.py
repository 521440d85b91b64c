"""`proxy`: the exact knapsack over scores that need no training of deltas."""

from __future__ import annotations

from typing import Literal

from autotune.problem.grids import Grids
from autotune.problem.knapsack import Scores
from autotune.problem.problem import Problem
from autotune.study.strategies.policy import PolicySampler

ProxyCriterion = Literal["mass", "ratio", "fisher", "relative", "taylor", "activation", "condition"]


def proxy(
    problem: Problem,
    grids: Grids,
    *,
    seed: int,
    workers: int = 1,
    scores: Scores | None = None,
    criterion: ProxyCriterion = "mass",
) -> PolicySampler:
    """The best plan by `scores`, which follow `criterion`; after it what trials make of them."""
    return PolicySampler(problem, grids, seed=seed, scores=scores)
