"""`gp`: a Gaussian process over all parameters with expected improvement, decoded."""

from __future__ import annotations

import warnings

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import GPSampler

from autotune.study.strategies.base import DecodingSampler


class BudgetedGP(DecodingSampler):
    """Optuna's Gaussian process; its first ten plans are random."""

    def make(self, seed: int) -> GPSampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return GPSampler(seed=seed, deterministic_objective=False)
