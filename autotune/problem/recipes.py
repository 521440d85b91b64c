"""Plans that need no search: low rank as evenly as the budget allows, and places at random."""

from __future__ import annotations

from collections.abc import Sequence

from autotune.problem.plan import FROZEN, Choice, Plan
from autotune.problem.problem import Problem


def uniform_lowrank(problem: Problem) -> Plan:
    """The same rank in every unit as far as the budget goes, raised rank by rank.

    Within a rank the cheapest units come first, so that as many as possible have it.
    """
    ranks = sorted({rank for u in problem.units for rank in _lowrank(problem, u)})
    plan: dict[str, Choice] = {}
    for rank in ranks:
        offers = [(u, c) for u in problem.units if (c := _lowrank(problem, u).get(rank))]
        for unit, choice in sorted(offers, key=lambda offer: problem.price(*offer)):
            raised = {**plan, unit: choice}
            if problem.fits(Plan(raised)):
                plan = raised
    return Plan(plan)


def last_units(problem: Problem, units: Sequence[str]) -> Plan:
    """From the last of the units backwards, each with the dearest choice that still fits."""
    room, plan = problem.room, dict[str, Choice]()
    for unit in reversed(units):
        fitting = [c for c in problem.choices[unit] if problem.price(unit, c) <= room]
        fitting = [c for c in fitting if c != FROZEN and not c.is_alone()]
        if fitting:
            plan[unit] = max(fitting, key=lambda c, u=unit: problem.price(u, c))  # type: ignore[misc]
            room -= problem.price(unit, plan[unit])
    return Plan(plan)


def _lowrank(problem: Problem, unit: str) -> dict[int, Choice]:
    alone = [c for c in problem.choices[unit] if c.names == ("lowrank",)]
    return {int(dict(c.methods[0].options)["rank"]): c for c in alone}
