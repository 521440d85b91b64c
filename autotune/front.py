"""The front of value and cost: what each further parameter buys."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from optuna.trial import FrozenTrial

from autotune.budget import Cost
from autotune.problem import Problem
from autotune.records import TrialRecord
from autotune.strategies.base import plan_of

PARTS = (1.0, 0.5, 0.25, 0.125)
"""Of the budget, in turn: what trials may spend where the front is asked for."""

Price = Callable[[Cost], int]
"""The second objective, minimised."""


def price_of(objective: str, problem: Problem) -> Price | None:
    """Of an objective like `accuracy,cost` or `accuracy,bytes`; None for the value alone."""
    _, _, second = objective.partition(",")
    if not second:
        return None
    if second == "bytes":
        return lambda cost: cost.bytes
    return lambda cost: cost[problem.budget.measure]


def front(records: Iterable[TrialRecord], price: Price) -> list[TrialRecord]:
    """The complete trials that no other beats in one objective and equals in the other.

    The cheapest first; of equal ones the earliest.
    """
    complete = [record for record in records if record.is_complete and record.repeat_of is None]
    found: list[TrialRecord] = []
    for record in sorted(complete, key=lambda r: (price(r.cost), -(r.value or 0), r.number)):
        if not found or (record.value or 0) > (found[-1].value or 0):
            found.append(record)
    return found


def part_of(problem: Problem, number: int) -> Problem:
    """The same problem under a part of the budget, for trial `number`."""
    part = PARTS[number % len(PARTS)]
    paid = problem.fixed[problem.budget.measure]
    limit = paid + int(part * max(problem.room, 0))
    return replace(problem, budget=replace(problem.budget, limit=limit))


def trial_price(problem: Problem, price: Price) -> Callable[[FrozenTrial], int]:
    """The second objective of a stored trial, from its parameters."""
    known: dict[int, int] = {}

    def of(trial: FrozenTrial) -> int:
        if trial.number not in known:
            known[trial.number] = price(problem.cost(plan_of(problem, trial.params)))
        return known[trial.number]

    return of
