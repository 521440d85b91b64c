"""`random`: a choice for every unit at random, decoded onto the budget."""

from __future__ import annotations

from optuna.samplers import RandomSampler

from autotune.study.strategies.base import DecodingSampler


class BudgetedRandom(DecodingSampler):
    """Uniform over every unit's labels and every grid."""

    def make(self, seed: int) -> RandomSampler:
        return RandomSampler(seed)
