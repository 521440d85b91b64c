"""The best plan under a budget when every choice has a score: an exact knapsack."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from autotune.problem.plan import Choice, Plan
from autotune.problem.problem import Problem

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Scores = Mapping[tuple[str, str], float]
"""(unit, label) → score of this choice, 0 if missing; a plan's score is the sum over units."""


def best_plan(problem: Problem, scores: Scores) -> Plan:
    """Plan with the largest sum of scores that fits; of equally good ones, the cheapest.

    Exact: dynamic programming over the undominated (cost, score) pairs, unit after unit. A pair is
    dropped if even the fractional relaxation of the remaining units cannot raise it to a score
    that another pair is sure to reach (Kellerer, Pferschy, Pisinger: Knapsack Problems, 2004).
    Choices that must be alone in a plan compete with the best plan of all others.
    """
    together = _best_together(problem, scores)
    single = [Plan({unit: choice}) for unit, choice in problem.alone()]
    plans = [together, *(plan for plan in single if problem.fits(plan))]
    measure = problem.budget.measure
    return max(plans, key=lambda plan: (total(plan, problem, scores), -problem.cost(plan)[measure]))


def total(plan: Plan, problem: Problem, scores: Scores) -> float:
    """Sum of a plan's scores, including those of frozen units."""
    return sum(scores.get((unit, plan[unit].label), 0.0) for unit in problem.units)


def _best_together(problem: Problem, scores: Scores) -> Plan:
    stages = [_stage(problem, unit, scores) for unit in problem.units]
    bounds = [_Bound(stages[i + 1 :]) for i in range(len(stages))]
    room = max(problem.room, 0)
    slack = _slack(stages)
    cost, score, steps = np.zeros(1, np.int64), np.zeros(1), []
    for stage, bound in zip(stages, bounds, strict=True):
        cost, score, step = _extend(cost, score, stage, bound, room, slack)
        steps.append(step)
    return _trace(problem, steps, int(np.argmax(score)))


class _Stage(NamedTuple):
    cost: Integers
    score: Floats


class _Step(NamedTuple):
    before: Integers
    choice: Integers


def _stage(problem: Problem, unit: str, scores: Scores) -> _Stage:
    choices = _shared(problem, unit)
    cost = np.array([problem.price(unit, c) for c in choices], np.int64)
    score = np.array([scores.get((unit, c.label), 0.0) for c in choices], np.float64)
    return _Stage(cost, score)


def _shared(problem: Problem, unit: str) -> list[Choice]:
    return [choice for choice in problem.choices[unit] if not problem.goes_alone(choice)]


def _slack(stages: list[_Stage]) -> float:
    """Upper bound on the rounding error of a sum of scores, even under cancellation."""
    return 1e-9 * sum(float(np.abs(stage.score).max()) for stage in stages)


def _extend(
    cost: Integers, score: Floats, stage: _Stage, bound: _Bound, room: int, slack: float
) -> tuple[Integers, Floats, _Step]:
    costs = (cost[:, None] + stage.cost).ravel()
    totals = (score[:, None] + stage.score).ravel()
    fits = np.flatnonzero(costs <= room)
    order = fits[np.lexsort((-totals[fits], costs[fits]))]
    best = np.maximum.accumulate(totals[order])
    better = np.concatenate(([True], best[1:] > best[:-1]))  # than every cheaper pair
    kept = order[better]
    left = room - costs[kept]
    reached = np.max(totals[kept] + bound.reach(left))
    kept = kept[totals[kept] + bound(left) >= reached - slack]
    width = len(stage.cost)
    step = _Step((kept // width).astype(np.int32), (kept % width).astype(np.int32))
    return costs[kept], totals[kept], step


def _trace(problem: Problem, steps: list[_Step], at: int) -> Plan:
    chosen = {}
    for unit, step in zip(reversed(problem.units), reversed(steps), strict=True):
        chosen[unit] = _shared(problem, unit)[step.choice[at]]
        at = int(step.before[at])
    return Plan(chosen)


class _Bound:
    """Fractional relaxation of some units: an upper bound on their scores within a room."""

    def __init__(self, stages: list[_Stage]) -> None:
        hulls = [_hull(stage) for stage in stages]
        self.base = float(sum(base for base, _ in hulls))
        pieces = np.array([piece for _, pieces in hulls for piece in pieces]).reshape(-1, 2)
        steepest = np.argsort(-pieces[:, 1] / pieces[:, 0], kind="stable")
        self.pieces = pieces[steepest]
        self.cost = np.concatenate(([0.0], np.cumsum(self.pieces[:, 0])))
        self.score = np.concatenate(([0.0], np.cumsum(self.pieces[:, 1])))

    def __call__(self, room: Any) -> Any:
        return self.base + np.interp(room, self.cost, self.score)

    def reach(self, room: Integers) -> Floats:
        """Score that is sure to be reached within each room, with whole pieces alone."""
        whole = np.searchsorted(self.cost, room, side="right") - 1
        return self.base + self.score[whole]


def _hull(stage: _Stage) -> tuple[float, list[tuple[float, float]]]:
    """Score at cost 0, and the (cost, score) pieces of the upper concave hull, steepest first."""
    points: list[tuple[float, float]] = []
    for cost, score in sorted(zip(stage.cost.tolist(), stage.score.tolist(), strict=True)):
        if points and score <= points[-1][1]:
            continue
        while points and (
            points[-1][0] == cost
            or (len(points) > 1 and _bends_up(points[-2], points[-1], (cost, score)))
        ):
            points.pop()
        points.append((cost, score))
    return points[0][1], [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(points)]


def _bends_up(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> bool:
    return (b[1] - a[1]) * (c[0] - b[0]) <= (c[1] - b[1]) * (b[0] - a[0])
