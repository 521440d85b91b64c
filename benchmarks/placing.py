"""Plans of a single method that use a budget evenly, from the first unit on or from the last."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from autotune.backbones.base import Backbone
from autotune.backbones.units import Unit, Units
from autotune.deltas.candidates import find_candidates
from autotune.deltas.costs import plan_cost
from autotune.deltas.site import sites
from autotune.problem.budget import Budget, Cost
from autotune.problem.plan import Choice, Plan
from autotune.problem.search_space import SearchSpace

Entry = dict[str, Any]
"""Entry of a search space's `choices`: a method with its options."""


@dataclass(frozen=True)
class Placer:
    """Places a single method on the units of a backbone within a budget."""

    backbone: Backbone
    units: Units
    space: SearchSpace
    budget: Budget

    def placements(self, entry: Entry) -> Iterator[Plan]:
        """Plans: even, filled from the first unit and from the last; for spans, each alone."""
        placed = self.places(entry)
        if not placed:
            return
        if placed[0].is_span():
            for unit in placed:
                yield Plan({unit.name: self.largest(unit, entry, self.budget.limit)})
            if "skip" not in entry:
                return
        yield self.even(placed, entry)
        yield self.filled(placed, entry)
        yield self.filled(placed[::-1], entry)

    def places(self, entry: Entry) -> list[Unit]:
        """Units and spans for which some choice of the entry fits the budget."""
        return [u for u in self.units if self.choices(u, entry, self.budget.limit)]

    def even(self, placed: list[Unit], entry: Entry) -> Plan:
        """Plan with equal shares of the budget; the rest goes to the first units."""
        share = self.budget.limit // len(placed)
        plan = Plan({unit.name: self.largest(unit, entry, share) for unit in placed})
        for unit in placed:
            cost = self.cost(Plan({unit.name: plan[unit.name]})).parameters
            left = self.budget.limit - self.cost(plan).parameters + cost
            raised = self.largest(unit, entry, min(left, 2 * share))
            plan = Plan({**plan.choices, unit.name: raised})
        return plan

    def filled(self, placed: list[Unit], entry: Entry) -> Plan:
        """Plan in which each unit in turn uses as much of the remaining budget as it can."""
        chosen: dict[str, Choice] = {}
        for unit in placed:
            left = self.budget.limit - self.cost(Plan(chosen)).parameters
            chosen[unit.name] = self.largest(unit, entry, left)
        return Plan(chosen)

    def largest(self, unit: Unit, entry: Entry, room: int) -> Choice:
        """Most expensive choice of the entry that costs at most `room`; *frozen* if none does."""
        offered = self.choices(unit, entry, room)
        return max(offered, key=lambda choice: offered[choice].parameters, default=Choice())

    def choices(self, unit: Unit, entry: Entry, room: int) -> dict[Choice, Cost]:
        """Choices of the entry for a unit that cost at most `room`, with their costs."""
        space = self.space.model_copy(update={"choices": [entry]})
        units = Units((unit,), (), self.units.flow)
        offered = find_candidates(self.backbone.network, units, space, room=room)
        costs = offered.get(unit.name, {})
        return {choice: cost for choice, cost in costs.items() if cost.parameters <= room}

    def cost(self, plan: Plan) -> Cost:
        """Cost of a plan, computed from shapes."""
        chosen = [unit for unit in self.units if unit.name in plan.choices]
        return plan_cost(sites(self.backbone.network, chosen, self.units.flow), plan)
