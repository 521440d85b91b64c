"""The cost of a choice and of a plan, counted from shapes alone."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from autotune.backbones.units import Units
from autotune.deltas import METHODS
from autotune.deltas.base import Delta
from autotune.deltas.site import Site, sites
from autotune.problem.budget import Cost
from autotune.problem.plan import Choice, Method, Plan


def new_delta(method: Method) -> Delta:
    """Delta of this method, not yet attached; `UnknownName` for an unknown method."""
    delta: Delta = METHODS.load(method.name)(**dict(method.options))
    return delta


def everywhere(network: nn.Module, units: Units, choice: Choice) -> tuple[Plan, Cost]:
    """Plan with one choice in every unit where it has a place, and its cost; ignores the space."""
    places = sites(network, units, units.flow)
    names = [unit.name for unit in units if has_place(choice, places[unit.name])]
    plan = Plan(dict.fromkeys(names, choice))
    return plan, plan_cost(places, plan)


def plan_cost(places: Mapping[str, Site], plan: Plan) -> Cost:
    """Predicted cost of a plan at these sites, from shapes alone."""
    costs = [choice_cost(places[unit], plan[unit]) for unit in plan]
    return sum(costs, Cost())


def has_place(choice: Choice, site: Site) -> bool:
    deltas = [new_delta(method) for method in choice.methods]
    return all(d.on_span == site.is_span() and d.count(site).stored for d in deltas)


def choice_cost(site: Site, choice: Choice) -> Cost:
    return sum((new_delta(method).count(site) for method in choice.methods), Cost())
