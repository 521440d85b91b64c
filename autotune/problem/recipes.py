"""Plans without a search: one method spread as evenly as possible, and the last units."""

from __future__ import annotations

from collections.abc import Sequence

from autotune.problem.plan import FROZEN, Choice, Plan
from autotune.problem.problem import Problem


def uniform_placement(problem: Problem) -> Plan:
    """Plan with the baseline method in every unit, its size raised step by step within the budget.

    At each size the cheapest units come first, so that as many as possible get it. The plan is
    empty if the problem has no choice of the method.
    """
    sizes = sorted({size for unit in problem.units for size in _by_size(problem, unit)})
    plan: dict[str, Choice] = {}
    for size in sizes:
        offers = [(u, c) for u in problem.units if (c := _by_size(problem, u).get(size))]
        for unit, choice in sorted(offers, key=lambda offer: problem.price(*offer)):
            raised = {**plan, unit: choice}
            if problem.fits(Plan(raised)):
                plan = raised
    return Plan(plan)


def last_units(problem: Problem, units: Sequence[str]) -> Plan:
    """Plan from the last of `units` backwards, each with its most expensive choice that fits."""
    room, plan = problem.room, dict[str, Choice]()
    for unit in reversed(units):
        fitting = [c for c in problem.choices[unit] if problem.price(unit, c) <= room]
        fitting = [c for c in fitting if c != FROZEN and not problem.goes_alone(c)]
        if fitting:
            plan[unit] = max(fitting, key=lambda c, u=unit: problem.price(u, c))  # type: ignore[misc]
            room -= problem.price(unit, plan[unit])
    return Plan(plan)


def _by_size(problem: Problem, unit: str) -> dict[int, Choice]:
    sizes = {choice: problem.methods.size_in_uniform(choice) for choice in problem.choices[unit]}
    return {size: choice for choice, size in sizes.items() if size is not None}
