"""Paired differences of two plans."""

from __future__ import annotations

import pytest
from scipy.stats import ttest_rel

from autotune.study.paired import by_fold, paired


def test_the_interval_is_that_of_the_paired_t_test():
    values = {(0, 0): 0.91, (1, 0): 0.93, (2, 0): 0.90, (3, 0): 0.95}
    baseline = {(0, 0): 0.90, (1, 0): 0.90, (2, 0): 0.89, (3, 0): 0.91, (9, 0): 0.1}
    difference = paired(values, baseline)
    common = [baseline[key] for key in values]
    low, high = ttest_rel([*values.values()], common).confidence_interval(0.95)
    assert difference.mean - difference.half == pytest.approx(low)
    assert difference.mean + difference.half == pytest.approx(high)
    assert difference.pairs == 4
    assert difference.is_distinguishable == (low > 0)


@pytest.mark.parametrize("n", [1, 2])
def test_fewer_than_three_pairs_tell_nothing_apart(n):
    """Two seeds on few examples easily agree in every digit."""
    values, baseline = ({(seed, 0): value for seed in range(n)} for value in (0.9, 0.8))
    difference = paired(values, baseline)
    assert difference.mean == pytest.approx(0.1)
    assert not difference.is_distinguishable
    assert (difference.to_json()["half"] is None) == (n == 1), "JSON has no infinity"


def test_folds_are_pairs_of_their_own():
    values = by_fold(0, 0.8, (0.7, 0.8, 0.9)) | by_fold(1, 0.8, (0.7, 0.8, 0.9))
    baseline = by_fold(0, 0.5, (0.4, 0.5, 0.6)) | by_fold(2, 0.5, (0.4, 0.5, 0.6))
    difference = paired(values, baseline)
    assert (difference.pairs, difference.mean) == (3, pytest.approx(0.3))
    assert by_fold(4, 0.5, ()) == {(4, 0): 0.5}
