"""Everything that a strategy knows: the units, their choices, the costs, and the budget."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from autotune.errors import BudgetError, PlanError
from autotune.problem.budget import Budget, Cost
from autotune.problem.method_facts import MethodFacts
from autotune.problem.plan import FROZEN, Choice, Plan
from autotune.utils.table import Column, Table

Candidates = Mapping[str, Mapping[Choice, Cost]]
"""Unit → choice → cost, in depth order, without *frozen*."""


@dataclass(frozen=True)
class Problem:
    """A choice for every unit, at most `budget` in all: a multiple-choice knapsack."""

    units: tuple[str, ...]
    """Names in depth order."""

    choices: Mapping[str, tuple[Choice, ...]]
    """Unit → its choices: *frozen* first, then every choice that fits the budget alone."""

    costs: Mapping[tuple[str, str], Cost]
    """(unit, label) → cost."""

    budget: Budget

    fixed: Cost = Cost()
    """Cost charged to every plan: the head with `--count-head`, prepared buffers in bytes."""

    methods: MethodFacts = MethodFacts()
    """Methods that must be alone in a plan, and the method of the uniform baseline."""

    @classmethod
    def of(
        cls,
        candidates: Candidates,
        budget: Budget,
        *,
        fixed: Cost = Cost(),
        methods: MethodFacts = MethodFacts(),
    ) -> Problem:
        """Problem of choosing among `candidates`, without those that can never fit.

        `fixed` is charged to every plan. `methods` names the methods that must be alone in a plan
        and the one that the uniform baseline uses.
        """
        choices, costs = {}, {}
        for unit, cost_by_choice in candidates.items():
            fitting = {c: k for c, k in cost_by_choice.items() if budget.fits(k + fixed)}
            choices[unit] = (FROZEN, *fitting)
            costs[unit, FROZEN.label] = Cost()
            costs.update({(unit, choice.label): cost for choice, cost in fitting.items()})
        return cls(tuple(candidates), choices, costs, budget, fixed, methods)

    def charged(self, cost: Cost) -> Problem:
        """The same problem with `cost` charged to every plan, without what no longer fits."""
        candidates = {
            unit: {c: self.costs[unit, c.label] for c in choices if not c.is_frozen()}
            for unit, choices in self.choices.items()
        }
        fixed = self.fixed + cost
        return Problem.of(candidates, self.budget, fixed=fixed, methods=self.methods)

    def alone(self) -> list[tuple[str, Choice]]:
        """(unit, choice) of all choices that must be the only one of their plan."""
        return [(u, c) for u in self.units for c in self.choices[u] if self.goes_alone(c)]

    def goes_alone(self, choice: Choice) -> bool:
        """Whether a choice must be the only one of its plan."""
        return self.methods.goes_alone(choice)

    @property
    def room(self) -> int:
        """Budget that is left for the plan after `fixed`."""
        return self.budget.limit - self.fixed[self.budget.measure]

    def cost(self, plan: Plan) -> Cost:
        """Cost of a plan, without `fixed`."""
        return sum((self.costs[unit, plan[unit].label] for unit in plan), Cost())

    def fits(self, plan: Plan) -> bool:
        """Whether a plan is within the budget after `fixed`, and its choices may be combined."""
        if len(plan) > 1 and any(map(self.goes_alone, plan.choices.values())):
            return False
        return self.cost(plan)[self.budget.measure] <= max(self.room, 0)

    def price(self, unit: str, choice: Choice) -> int:
        """Cost of one choice of a unit in the budget's measure."""
        return self.costs[unit, choice.label][self.budget.measure]

    def choice(self, unit: str, label: str) -> Choice:
        """Choice of `unit` with this label; `PlanError` if there is none."""
        try:
            return self._by_label[unit, label]
        except KeyError:
            raise PlanError(
                f"Unit {unit!r} has no choice {label!r} in this problem. See its units."
            ) from None

    @cached_property
    def _by_label(self) -> dict[tuple[str, str], Choice]:
        return {(unit, c.label): c for unit, choices in self.choices.items() for c in choices}

    def labels(self, plan: Plan) -> dict[str, str]:
        """The plan as unit → label, for every unit."""
        return {unit: plan[unit].label for unit in self.units}

    def table(self, plan: Plan | None = None) -> Table:
        """One row per unit in depth order: its choice in a plan, or its number of choices."""
        if plan is None:
            head = ("unit", Column("choices", "d"), "cheapest", "most expensive")
            return Table.of(head, [self._offer(unit) for unit in self.units])
        costs = {unit: self.costs[unit, plan[unit].label] for unit in self.units}
        rows = [(u, plan[u].label, cost.parameters, cost.bytes) for u, cost in costs.items()]
        return Table.of(("unit", "choice", Column("parameters", ",d"), Column("bytes", ",d")), rows)

    def _offer(self, unit: str) -> tuple[str, int, str, str]:
        """Row of one unit in the table of choices."""
        offers = [c for c in self.choices[unit] if not c.is_frozen()]
        priced = sorted(offers, key=lambda choice: self.price(unit, choice))
        if not priced:
            return unit, 0, "", ""
        cheapest, *_, most_expensive = [self._priced(unit, c) for c in (priced[0], priced[-1])]
        return unit, len(priced), cheapest, most_expensive

    def _priced(self, unit: str, choice: Choice) -> str:
        return f"{choice.label}: {self.price(unit, choice):,}"

    def _repr_html_(self) -> str:
        """The budget and a table of each unit's choices, for notebooks."""
        budget = self.budget
        summary = f"Within {budget.limit:,} of {budget.total:,} {budget.measure.value}:"
        return f"<p>{summary}</p>{self.table().to_html()}"

    def is_empty(self) -> bool:
        """Whether no unit can take anything but *frozen*."""
        return all(choices == (FROZEN,) for choices in self.choices.values())


def entries_of(problem: Problem) -> list[tuple[str, Choice]]:
    """(unit, choice) of all choices except *frozen*, in depth order."""
    return [(u, c) for u in problem.units for c in problem.choices[u] if not c.is_frozen()]


def require_room(problem: Problem, candidates: Candidates) -> None:
    """Raise `BudgetError`, naming the cheapest choice, if nothing fits the budget."""
    if not problem.is_empty():
        return
    budget = problem.budget
    offers = [(k[budget.measure], u, c) for u, cs in candidates.items() for c, k in cs.items()]
    if not offers:
        raise BudgetError("No unit of this backbone takes any choice of the space. Change --space.")
    price, unit, choice = min(offers, key=lambda offer: offer[0])
    fixed = problem.fixed[budget.measure]
    paid = f", of which {fixed:,} are already taken (head, prepared buffers)" if fixed else ""
    raise BudgetError(
        f"The budget {budget.text!r} allows {budget.limit:,} {budget.measure.value}{paid}, "
        f"but the cheapest choice ({choice.label} in {unit}) needs {price:,}. Raise the budget."
    )


def decode(problem: Problem, proposal: Mapping[str, str]) -> Plan:
    """Turn `proposal` (unit → label) into a plan within the budget; no proposal is rejected.

    A proposal that fits is kept. Otherwise units are paid for in an order drawn from the
    proposal's digest, so that no part of the network is favoured; a choice that no longer fits
    becomes the most expensive one of the same methods that does, or *frozen*. A choice that must
    be alone is the whole plan if it comes first in that order, and is dropped otherwise.
    """
    wanted = {unit: problem.choice(unit, label) for unit, label in proposal.items()}
    plan = Plan({unit: choice for unit, choice in wanted.items() if not problem.goes_alone(choice)})
    alone = [unit for unit, choice in wanted.items() if problem.goes_alone(choice)]
    order = sorted([*plan, *alone], key=lambda unit: _draw(plan, unit))
    if alone and order[0] in alone:
        return Plan({order[0]: _affordable(problem, order[0], wanted[order[0]], problem.room)})
    if problem.fits(plan):
        return plan
    room, kept = problem.room, {}
    for unit in order:
        if unit in plan.choices:
            kept[unit] = _affordable(problem, unit, plan[unit], room)
            room -= problem.price(unit, kept[unit])
    return Plan(kept)


def _draw(plan: Plan, unit: str) -> bytes:
    return hashlib.sha256(f"{plan.digest}:{unit}".encode()).digest()


def _affordable(problem: Problem, unit: str, wanted: Choice, room: int) -> Choice:
    if problem.price(unit, wanted) <= room:
        return wanted
    similar = [c for c in problem.choices[unit] if c.names == wanted.names]
    fitting = [c for c in similar if problem.price(unit, c) <= room]
    return max(fitting, key=lambda c: (problem.price(unit, c), c.label), default=FROZEN)
