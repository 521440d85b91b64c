"""Pareto front of value and cost: how much value each further parameter adds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from optuna.trial import FrozenTrial

from autotune.problem.budget import Cost
from autotune.problem.problem import Problem
from autotune.study.strategies.base import plan_of
from autotune.study.trial_record import TrialRecord

BUDGET_FRACTIONS = (1.0, 0.5, 0.25, 0.125)
"""Fractions of the budget that successive trials may spend when the front is searched.

Halving covers a range of costs with few trials each; the exact fractions are not critical.
"""

MEASURED = ("latency", "memory")
"""Second objectives that cannot be computed from a plan; they are measured when a trial starts."""

Price = Callable[[Cost, Mapping[str, float]], float]
"""Second objective, to be minimised, as a function of the plan's cost and the trial's metrics."""


def objective_price(objective: str, problem: Problem) -> Price | None:
    """Price of an objective such as `accuracy,cost` or `accuracy,latency`; None without a price."""
    _, _, second = objective.partition(",")
    if not second:
        return None
    if second in MEASURED:
        return lambda _, metrics: metrics[second]
    if second == "bytes":
        return lambda cost, _: cost.bytes
    return lambda cost, _: cost[problem.budget.measure]


def measured_by(objective: str) -> str | None:
    """`latency` or `memory` if that is the second objective, else None."""
    second = objective.partition(",")[2]
    return second if second in MEASURED else None


def front(records: Iterable[TrialRecord], price: Price) -> list[TrialRecord]:
    """Complete trials that are Pareto optimal, the cheapest first.

    Of trials with equal price and value, only the earliest is kept.
    """
    complete = [record for record in records if record.is_complete and record.repeat_of is None]
    optimal: list[TrialRecord] = []

    def order(record: TrialRecord) -> tuple[float, float, int]:
        return price(record.cost, record.metrics), -(record.value or 0), record.number

    for record in sorted(complete, key=order):
        if not optimal or (record.value or 0) > (optimal[-1].value or 0):
            optimal.append(record)
    return optimal


def part_of(problem: Problem, number: int) -> Problem:
    """Problem of trial `number`, with a fraction of the budget."""
    part = BUDGET_FRACTIONS[number % len(BUDGET_FRACTIONS)]
    paid = problem.fixed[problem.budget.measure]
    limit = max(1, paid + int(part * max(problem.room, 0)))  # a budget of 0 cannot be written
    return replace(problem, budget=replace(problem.budget, limit=limit))


def trial_price(problem: Problem, price: Price) -> Callable[[FrozenTrial], float]:
    """Function that computes the second objective of a stored trial with at least one report."""
    known: dict[int, float] = {}

    def of(trial: FrozenTrial) -> float:
        if trial.number not in known:
            metrics = trial.user_attrs.get("record", {}).get("metrics", {})
            measured = trial.user_attrs.get("measured", {})
            cost = problem.cost(plan_of(problem, trial.params))
            known[trial.number] = price(cost, {**metrics, **measured})
        return known[trial.number]

    return of
