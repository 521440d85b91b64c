"""Random problems for property tests of the policy."""

from __future__ import annotations

from hypothesis import strategies as st

from autotune.problem.budget import Budget, Cost
from autotune.problem.plan import Choice
from autotune.problem.problem import Problem

CHOICES = [
    Choice.of("subtune", what="norms"),
    *(Choice.of("lowrank", rank=rank) for rank in (1, 2, 4)),
    Choice.of("subtune", what="norms") + Choice.of("lowrank", rank=1),
    Choice.of("scale"),
]


def problem_of(prices: list[list[int]], limit: int) -> Problem:
    """Problem with a list of prices per unit and a limit in parameters."""
    candidates = {
        f"unit{i}": {c: Cost(k, k, 4 * k) for c, k in zip(CHOICES, offered, strict=False)}
        for i, offered in enumerate(prices)
    }
    return Problem.of(candidates, Budget(limit, 10**9))


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Up to eight units, with equal or different prices and any limit from tight to slack."""
    equal = draw(st.booleans())
    price = st.just(draw(st.integers(1, 500))) if equal else st.integers(1, 500)
    offered = st.lists(price, min_size=1, max_size=len(CHOICES))
    prices = draw(st.lists(offered, min_size=1, max_size=8))
    return problem_of(prices, draw(st.integers(1, 2 * sum(max(p) for p in prices))))
