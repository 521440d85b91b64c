"""What a search space offers on a backbone: every unit's choices with their costs."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from autotune.backbones.units import Units
from autotune.budget import Cost
from autotune.deltas import METHODS
from autotune.deltas.base import Delta, Site, check_method, sites
from autotune.errors import AutotuneError, SpaceError
from autotune.plan import Choice, Method, Option, Plan
from autotune.problem import Candidates
from autotune.space import SearchSpace


def space_choices(space: SearchSpace) -> list[Choice]:
    """Every choice that the space offers; `SpaceError` lists all that cannot be one."""
    choices, faults = [], []
    for combination in space.combinations():
        try:
            choices.append(_choice(combination))
        except AutotuneError as error:
            faults.append(str(error))
    missing = sorted(
        {n for c in choices for n in (*c.names, "head")} - set(space.hyperparameters.lr)
    )
    faults += [f"hyperparameters.lr has no rates for {name}" for name in missing]
    if faults:
        raise SpaceError(f"The space {space.family!r}: {'; '.join(dict.fromkeys(faults))}")
    return list(dict.fromkeys(choices))


def find_candidates(network: nn.Module, units: Units, space: SearchSpace) -> Candidates:
    """Unit → choice → cost, from shapes alone; a method without a place in a unit is no choice."""
    choices = space_choices(space)
    places = sites(network, units)
    return {unit.name: _offered(places[unit.name], choices) for unit in units}


def new_delta(method: Method) -> Delta:
    """A delta of this method, not yet attached; `UnknownName` for one that is in no table."""
    delta: Delta = METHODS.load(method.name)(**dict(method.options))
    return delta


def _choice(combination: list[tuple[str, dict[str, Option]]]) -> Choice:
    methods = [check_method(n, options, METHODS.load(n)) for n, options in combination]
    order = METHODS.names()
    return Choice(tuple(sorted(methods, key=lambda m: order.index(m.name))))


def _offered(site: Site, choices: list[Choice]) -> dict[Choice, Cost]:
    offered = {}
    for choice in choices:
        costs = [_count(site, method) for method in choice.methods]
        if all(cost.parameters for cost in costs):
            offered[choice] = sum(costs, Cost())
    return offered


def _count(site: Site, method: Method) -> Cost:
    return new_delta(method).count(site)


def plan_cost(places: Mapping[str, Site], plan: Plan) -> Cost:
    """Predicted cost of a plan at these sites, from shapes alone."""
    costs = [_count(places[unit], method) for unit in plan for method in plan[unit].methods]
    return sum(costs, Cost())
