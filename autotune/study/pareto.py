"""The front of value and cost: what each further parameter buys."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from optuna.trial import FrozenTrial

from autotune.problem.budget import Cost
from autotune.problem.problem import Problem
from autotune.study.strategies.base import plan_of
from autotune.study.trial_record import TrialRecord

BUDGET_FRACTIONS = (1.0, 0.5, 0.25, 0.125)
"""Of the budget, in turn: what trials may spend where the front is asked for."""

MEASURED = ("latency", "memory")
"""Second objectives that no plan tells: found when its trial begins, among its metrics."""

Price = Callable[[Cost, Mapping[str, float]], float]
"""The second objective, minimised: from a plan's cost and its trial's metrics."""


def objective_price(objective: str, problem: Problem) -> Price | None:
    """Of an objective like `accuracy,cost` or `accuracy,latency`; None for the value alone."""
    _, _, second = objective.partition(",")
    if not second:
        return None
    if second in MEASURED:
        return lambda _, metrics: metrics[second]
    if second == "bytes":
        return lambda cost, _: cost.bytes
    return lambda cost, _: cost[problem.budget.measure]


def measured_by(objective: str) -> str | None:
    """`latency` or `memory` where that is the second objective."""
    second = objective.partition(",")[2]
    return second if second in MEASURED else None


def front(records: Iterable[TrialRecord], price: Price) -> list[TrialRecord]:
    """The complete trials that no other beats in one objective and equals in the other.

    The cheapest first; of equal ones the earliest.
    """
    complete = [record for record in records if record.is_complete and record.repeat_of is None]
    found: list[TrialRecord] = []

    def order(record: TrialRecord) -> tuple[float, float, int]:
        return price(record.cost, record.metrics), -(record.value or 0), record.number

    for record in sorted(complete, key=order):
        if not found or (record.value or 0) > (found[-1].value or 0):
            found.append(record)
    return found


def part_of(problem: Problem, number: int) -> Problem:
    """The same problem under a part of the budget, for trial `number`."""
    part = BUDGET_FRACTIONS[number % len(BUDGET_FRACTIONS)]
    paid = problem.fixed[problem.budget.measure]
    limit = max(1, paid + int(part * max(problem.room, 0)))  # a budget of 0 cannot be written
    return replace(problem, budget=replace(problem.budget, limit=limit))


def trial_price(problem: Problem, price: Price) -> Callable[[FrozenTrial], float]:
    """The second objective of a stored trial that has reported at least once."""
    known: dict[int, float] = {}

    def of(trial: FrozenTrial) -> float:
        if trial.number not in known:
            metrics = trial.user_attrs.get("record", {}).get("metrics", {})
            measured = trial.user_attrs.get("measured", {})
            cost = problem.cost(plan_of(problem, trial.params))
            known[trial.number] = price(cost, {**metrics, **measured})
        return known[trial.number]

    return of
