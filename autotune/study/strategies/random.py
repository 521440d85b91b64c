"""`random`: a random choice for every unit, decoded to a plan within the budget."""

from __future__ import annotations

from optuna.samplers import RandomSampler

from autotune.study.strategies.base import DecodingSampler


class BudgetedRandom(DecodingSampler):
    """Samples uniformly from the labels of every unit and from every grid."""

    def make(self, seed: int) -> RandomSampler:
        return RandomSampler(seed)
