"""`bruteforce`: every plan within the budget, once."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

from autotune.errors import PlanError
from autotune.problem.plan import Plan
from autotune.problem.problem import Problem
from autotune.study.strategies.base import FixedSampler

MOST = 100_000
"""Maximum number of plans.

A larger list takes long to make, and far more trials than a search can run.
"""


class BruteForceSampler(FixedSampler):
    """Proposes every plan within the budget once, with the middle of every grid, and then ends."""

    @cached_property
    def plans(self) -> list[Plan]:
        """All plans that fit, sorted by digest; raises `PlanError` for more than `MOST` plans."""
        plans = []
        for plan in all_plans(self.problem):
            plans.append(plan)
            if len(plans) > MOST:
                raise PlanError(
                    f"bruteforce lists at most {MOST:,} plans, this space has more. "
                    "Lower the budget, offer fewer choices, or use another strategy."
                )
        return sorted(plans, key=lambda plan: plan.digest)


def all_plans(problem: Problem) -> Iterator[Plan]:
    """Every plan within the budget, the empty one first."""

    def extended(units: tuple[str, ...], chosen: dict[str, Any], room: int) -> Iterator[Plan]:
        if not units:
            yield Plan(chosen)
            return
        for choice in problem.choices[units[0]]:
            price = problem.price(units[0], choice)
            if price <= room and not problem.goes_alone(choice):
                yield from extended(units[1:], {**chosen, units[0]: choice}, room - price)

    yield from extended(problem.units, {}, max(problem.room, 0))
    for unit, choice in problem.alone():
        if problem.fits(Plan({unit: choice})):
            yield Plan({unit: choice})
