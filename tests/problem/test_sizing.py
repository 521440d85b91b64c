"""The largest size within a limit, whatever the price does, in few questions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.problem.sizing import largest_size

examples = settings(deadline=None, derandomize=True)


@st.composite
def prices(draw: st.DrawFn) -> Callable[[int], int]:
    """Straight or bent lines that may stop rising where everything is taken."""
    start, slope = draw(st.integers(0, 50)), draw(st.integers(1, 9))
    bend, full = draw(st.sampled_from([0, 0, 1])), draw(st.integers(1, 300))
    return lambda size: start + slope * min(size, full) + bend * min(size, full) ** 2


@examples
@given(prices(), st.integers(0, 3000))
def test_it_is_the_smallest_of_the_most_expensive_sizes_that_fit(price, limit):
    fitting = [price(size) for size in range(1, 400) if price(size) <= limit]
    want = 1 + fitting.index(fitting[-1]) if fitting else 0
    assert largest_size(price, limit) == want


@pytest.mark.parametrize("limit", [10**3, 10**6, 10**9])
def test_few_prices_are_asked_for(limit):
    asked = set()
    largest_size(lambda size: asked.add(size) or 640 + 129 * size, limit)
    assert len(asked) <= 16
