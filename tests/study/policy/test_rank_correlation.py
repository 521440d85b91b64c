"""Rank correlation is scipy's."""

from __future__ import annotations

import numpy as np
import pytest

from autotune.study.policy.rank_correlation import rank_correlation


@pytest.mark.parametrize("n", [3, 4, 7, 20, 150])
@pytest.mark.parametrize("decimals", [0, 1, 15], ids=["many-ties", "some-ties", "no-ties"])
def test_equals_scipys_bit_for_bit(n, decimals):
    from scipy import stats

    generator = np.random.default_rng(n)
    for _ in range(20):
        first = generator.normal(size=n).round(decimals)
        first[0] = 9.0  # never all alike
        second = (first + generator.normal(size=n)).round(decimals)
        second[-1] = -9.0
        expected = float(stats.spearmanr(first, second).statistic)
        assert rank_correlation(first.tolist(), second.tolist()) == expected


def test_a_value_that_is_no_number_makes_it_none():
    assert np.isnan(rank_correlation([1.0, float("nan"), 3.0], [1.0, 2.0, 3.0]))
