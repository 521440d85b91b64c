"""`proxy`: the exact knapsack over scores of untrained choices."""

from __future__ import annotations

from typing import Literal

from autotune.problem.grids import Grids
from autotune.problem.knapsack import Scores
from autotune.problem.problem import Problem
from autotune.study.strategies.policy import PolicySampler
from autotune.study.strategies.score_source import ScoreSource

ProxyCriterion = Literal["mass", "ratio", "fisher", "relative", "taylor", "activation", "condition"]


class ProxySampler(PolicySampler):
    """Proposes the best plan by proxy `scores` (`criterion`), then samples as `PolicySampler`."""

    default_trials = 1  # the plan itself
    default_pruner = "none"
    score_source = ScoreSource.PROXIES

    def __init__(
        self,
        problem: Problem,
        grids: Grids,
        *,
        seed: int = 0,
        workers: int = 1,
        scores: Scores | None = None,
        criterion: ProxyCriterion = "mass",
    ) -> None:
        super().__init__(problem, grids, seed=seed, workers=workers, scores=scores)
        self.criterion = criterion
