"""Spearman's rank correlation, without the second that importing `scipy.stats` takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Equal to `scipy.stats.spearmanr(first, second).statistic` bit for bit; NaN propagates."""
    if np.isnan([*first, *second]).any():
        return float("nan")
    ranks = np.column_stack((_ranks(first), _ranks(second)))
    return float(np.asarray(np.corrcoef(ranks, rowvar=False))[1, 0])


def _ranks(values: Sequence[float]) -> npt.NDArray[np.float64]:
    """Ranks from 1; equal values share the mean of theirs."""
    _, position, counts = np.unique(values, return_inverse=True, return_counts=True)
    last: npt.NDArray[np.float64] = np.cumsum(counts) - (counts - 1) / 2
    return last[position]
