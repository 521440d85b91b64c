"""`tpe`: multivariate tree-structured Parzen estimators (Bergstra et al. 2011), decoded."""

from __future__ import annotations

import warnings

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import TPESampler

from autotune.study.strategies.base import DecodingSampler


class BudgetedTPE(DecodingSampler):
    """Optuna's multivariate TPE; with several workers, running trials count as bad ones."""

    def make(self, seed: int) -> TPESampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return TPESampler(seed=seed, multivariate=True, constant_liar=self.workers > 1)
