"""Whether two plans can be told apart."""

from __future__ import annotations

import pytest
from scipy.stats import ttest_rel

from autotune.study.paired import by_fold, paired


def test_the_interval_is_that_of_the_paired_t_test():
    ours = {(0, 0): 0.91, (1, 0): 0.93, (2, 0): 0.90, (3, 0): 0.95}
    theirs = {(0, 0): 0.90, (1, 0): 0.90, (2, 0): 0.89, (3, 0): 0.91, (9, 0): 0.1}
    found = paired(ours, theirs)
    common = [theirs[key] for key in ours]
    low, high = ttest_rel([*ours.values()], common).confidence_interval(0.95)
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((low, high))
    assert found.pairs == 4
    assert found.is_distinguishable == (low > 0)


@pytest.mark.parametrize("n", [1, 2])
def test_fewer_than_three_pairs_tell_nothing_apart(n):
    """Two seeds on few examples easily agree to the last digit."""
    ours, theirs = ({(seed, 0): value for seed in range(n)} for value in (0.9, 0.8))
    found = paired(ours, theirs)
    assert found.mean == pytest.approx(0.1)
    assert not found.is_distinguishable
    assert (found.to_json()["half"] is None) == (n == 1), "infinity is no JSON"


def test_folds_are_pairs_of_their_own():
    ours = by_fold(0, 0.8, (0.7, 0.8, 0.9)) | by_fold(1, 0.8, (0.7, 0.8, 0.9))
    theirs = by_fold(0, 0.5, (0.4, 0.5, 0.6)) | by_fold(2, 0.5, (0.4, 0.5, 0.6))
    found = paired(ours, theirs)
    assert (found.pairs, found.mean) == (3, pytest.approx(0.3))
    assert by_fold(4, 0.5, ()) == {(4, 0): 0.5}
