"""`greedy`: adds one unit after another, as SubTuning selects blocks (arXiv 2302.06354)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import inf
from typing import Literal

from optuna.study import Study, StudyDirection
from optuna.trial import TrialState

from autotune.problem.grids import Grids
from autotune.problem.knapsack import Scores, best_plan
from autotune.problem.plan import FROZEN, Plan
from autotune.problem.problem import Problem, entries_of
from autotune.study.strategies.base import Begun, ListingSampler

EPSILON = 0.01
"""Smallest gain of a round (`rule="gain"`), or its largest loss (`rule="best"`), of the value.

0.01 is the value that SubTuning uses.
"""

Direction = Literal["forward", "backward"]
Rule = Literal["best", "gain"]
GreedyCriterion = Literal["gain", "gain-per-cost"]


class GreedySampler(ListingSampler):
    """In each round, tries all changes of one unit and keeps the best.

    `direction="forward"` starts from the empty plan and tries every frozen unit with every choice
    that still fits the budget; `"backward"` starts from a full plan and tries to freeze each unit.
    The best change has the largest value (`criterion="gain"`) or the largest gain per cost
    (`"gain-per-cost"`). `rule="gain"`, as in the paper, ends when a round gains less than
    `epsilon`; `rule="best"`, as in its code, when a round is more than `epsilon` below the best
    value so far.

    Rounds are reconstructed from the record. Workers that would wait for the end of a round start
    the next one from its best plan so far.
    """

    def __init__(
        self,
        problem: Problem,
        grids: Grids,
        *,
        seed: int = 0,
        workers: int = 1,
        scores: Scores | None = None,
        direction: Direction = "forward",
        rule: Rule = "best",
        criterion: GreedyCriterion = "gain",
        epsilon: float = EPSILON,
    ) -> None:
        super().__init__(problem, grids, seed=seed, workers=workers, scores=scores)
        self.direction, self.rule, self.criterion = direction, rule, criterion
        self.epsilon = epsilon

    def next_plan(self, begun: Begun, study: Study) -> Plan | None:
        plans = (plan for stage in self.rounds(begun, study) for plan in stage)
        return next((plan for plan in plans if plan.digest not in begun), None)

    def rounds(self, begun: Begun, study: Study) -> Iterator[list[Plan]]:
        """Plans of each round, first of all the starting plan.

        Rounds after an unfinished one are guesses, which assume that its best plan stays the best.
        """
        values = _values(begun, study)
        base = self._start()
        yield [base]
        best, is_certain = _of(values, base), _is_ended(begun, base)
        while plans := self._changed(base):
            yield plans
            is_settled = all(_is_ended(begun, plan) for plan in plans)
            valued = [plan for plan in plans if plan.digest in values]
            if is_settled and not valued:
                return
            pick = max(valued or plans[:1], key=lambda plan: self._merit(plan, base, values))
            value, is_certain = _of(values, pick), is_certain and is_settled
            if is_certain and self._stops(value, _of(values, base), best):
                return
            best, base = max(best, value), pick

    def _start(self) -> Plan:
        if self.direction == "forward":
            return Plan()
        return fullest_plan(self.problem)

    def _changed(self, base: Plan) -> list[Plan]:
        if self.direction == "backward":
            return [Plan({**base.choices, unit: FROZEN}) for unit in base]
        offers = [(u, c) for u, c in entries_of(self.problem) if u not in base.choices]
        offers = [(u, c) for u, c in offers if not self.problem.goes_alone(c)]
        plans = [Plan({**base.choices, unit: choice}) for unit, choice in offers]
        return [plan for plan in plans if self.problem.fits(plan)]

    def _merit(self, plan: Plan, base: Plan, values: Mapping[str, float]) -> float:
        value, before = _of(values, plan), values.get(base.digest)
        if self.criterion == "gain" or before is None:
            return value
        measure = self.problem.budget.measure
        step = abs(self.problem.cost(plan)[measure] - self.problem.cost(base)[measure])
        return (value - before) / max(step, 1)

    def _stops(self, value: float, before: float, best: float) -> bool:
        if self.rule == "gain":
            return value - before < self.epsilon
        return value < best - self.epsilon


def fullest_plan(problem: Problem) -> Plan:
    """Plan with as many units as the budget allows, and then the most expensive choices."""
    entries = [(u, c) for u, c in entries_of(problem) if not problem.goes_alone(c)]
    offers = [(u, c, problem.price(u, c)) for u, c in entries]
    scale = 2 * sum(price for *_, price in offers)
    return best_plan(problem, {(u, c.label): 1 + price / scale for u, c, price in offers})


def _of(values: Mapping[str, float], plan: Plan) -> float:
    return values.get(plan.digest, -inf)


def _is_ended(begun: Begun, plan: Plan) -> bool:
    return plan.digest in begun and begun[plan.digest][1].state.is_finished()


def _values(begun: Begun, study: Study) -> dict[str, float]:
    """Digest → value of complete plans; larger is better."""
    sign = -1.0 if study.direction is StudyDirection.MINIMIZE else 1.0
    complete = {d: t for d, (_, t) in begun.items() if t.state is TrialState.COMPLETE}
    return {d: sign * t.value for d, t in complete.items() if t.value is not None}
