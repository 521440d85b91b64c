"""Choices that a search space offers for every unit of a backbone, with their costs."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from functools import cache

from torch import nn

from autotune.backbones.units import Units
from autotune.deltas import METHODS
from autotune.deltas.base import check_method
from autotune.deltas.costs import choice_cost, has_place, new_delta
from autotune.deltas.site import Site, sites
from autotune.errors import AutotuneError, PlanError, SpaceError
from autotune.problem.budget import Cost, Measure
from autotune.problem.method_facts import MethodFacts
from autotune.problem.plan import Choice, Option, Plan
from autotune.problem.problem import Candidates
from autotune.problem.search_space import BUDGET, SearchSpace
from autotune.problem.sizing import largest_size

SHARES = (Fraction(1), Fraction(1, 2), Fraction(1, 4))
"""Fractions of the budget: an option set to `budget` takes the largest size that fits into each.

Half and a quarter leave room for a plan of several units or methods.
"""

Combination = list[tuple[str, dict[str, Option]]]


def space_choices(space: SearchSpace) -> list[Choice]:
    """Every choice that the space offers, with 1 for `budget`; `SpaceError` lists all faults."""
    return list(dict.fromkeys(choice for _, choice in _checked(space)))


def find_candidates(
    network: nn.Module,
    units: Units,
    space: SearchSpace,
    *,
    room: int = 0,
    measure: Measure = Measure.PARAMETERS,
) -> Candidates:
    """Unit → choice → cost, from shapes alone, for methods that have a place in the unit.

    Spans without a choice are left out. An option set to `budget` takes the largest sizes that
    cost at most all, a half and a quarter of `room`, or of the cost of the largest useful size at
    the site (`Delta.most`) if that is less.
    """
    combinations = [combination for combination, _ in _checked(space)]
    places = sites(network, units, units.flow)
    by_shape: dict[object, dict[Choice, Cost]] = {}

    def offered(site: Site) -> dict[Choice, Cost]:
        if (shape := site.shape()) not in by_shape:
            sized = [_sized(combination, site, room, measure) for combination in combinations]
            fitted = [choice for choices in sized for choice in choices]
            by_shape[shape] = {c: choice_cost(site, c) for c in fitted if has_place(c, site)}
        return by_shape[shape]

    candidates = {unit.name: offered(places[unit.name]) for unit in units}
    offering = [unit for unit in units if candidates[unit.name] or not unit.is_span()]
    return {unit.name: candidates[unit.name] for unit in offering}


def make_choice(combination: Combination) -> Choice:
    """Choice with its methods in the table's order; `PlanError` if they may not share a unit."""
    methods = [check_method(n, options, METHODS.load(n)) for n, options in combination]
    order = METHODS.names()
    choice = Choice(tuple(sorted(methods, key=lambda m: order.index(m.name))))
    _check_company(choice)
    return choice


def method_facts(candidates: Candidates) -> MethodFacts:
    """Facts about the offered methods that a search needs in addition to their costs."""
    names = {name for choices in candidates.values() for c in choices for name in c.names}
    deltas = {name: METHODS.load(name) for name in METHODS.names() if name in names}
    alone = frozenset(name for name, delta in deltas.items() if delta.goes_alone)
    uniform = next((name for name, delta in deltas.items() if delta.is_uniform_baseline), None)
    if uniform is None:
        return MethodFacts(alone)
    return MethodFacts(alone, uniform, deltas[uniform].nests)


def check_plan(plan: Plan) -> None:
    """Raise `PlanError` if a choice that must be alone in its plan is not."""
    methods = [(choice, name) for choice in plan.choices.values() for name in choice.names]
    alone = [choice for choice, name in methods if METHODS.load(name).goes_alone]
    if alone and len(plan) > 1:
        raise PlanError(
            f"A plan with {alone[0].label} must leave all else frozen, this one changes "
            f"{len(plan)} units. Take out one or the other."
        )


def check_choice(choice: Choice, site: Site) -> None:
    """Raise `PlanError` for methods that may not share a unit, or have no place at the site."""
    _check_company(choice)
    for method in choice.methods:
        delta = new_delta(method)
        if delta.on_span != site.is_span() or not delta.count(site).stored:
            raise PlanError(
                f"{method.label} has no place in {site.name!r}: it attaches to {delta.where}. "
                "See autotune units."
            )


def _check_company(choice: Choice) -> None:
    deltas = {method.name: new_delta(method) for method in choice.methods}
    if len(deltas) < len(choice.methods):
        raise PlanError(f"A choice has each method once, {choice.label} has one twice. Drop one.")
    whole = [name for name, delta in deltas.items() if delta.retrains()]
    weights = [name for name, delta in deltas.items() if not delta.on_path]
    if whole and len(weights) > 1:
        raise PlanError(
            f"{whole[0]} sets whole weights freely, so no other change of weights goes with it, "
            f"got {choice.label}. Leave one out."
        )
    if len({delta.on_span for delta in deltas.values()}) > 1:
        raise PlanError(f"{choice.label} mixes methods of units and of spans. Leave one out.")
    alone = [name for name, delta in deltas.items() if delta.goes_alone]
    if alone and len(deltas) > 1:
        raise PlanError(f"{alone[0]} goes alone, got {choice.label}. Leave the others out.")


def _checked(space: SearchSpace) -> Iterator[tuple[Combination, Choice]]:
    checked, faults = [], []
    for combination in space.combinations():
        try:
            checked.append((combination, make_choice(_with_size(combination, 1))))
        except AutotuneError as error:
            faults.append(str(error))
    names = {name for _, choice in checked for name in (*choice.names, "head")}
    missing = sorted(names - set(space.hyperparameters.lr))
    faults += [f"hyperparameters.lr has no rates for {name}" for name in missing]
    if faults:
        raise SpaceError(f"The space {space.family!r}: {'; '.join(dict.fromkeys(faults))}")
    return iter(checked)


def _sized(combination: Combination, site: Site, room: int, measure: Measure) -> Iterator[Choice]:
    """Choices of one combination at a site: one, or with `budget` in it one per share of `room`."""
    if all(BUDGET not in options.values() for _, options in combination):
        yield make_choice(combination)
        return
    if not has_place(make_choice(_with_size(combination, 1)), site):
        return

    @cache
    def price(size: int) -> int:
        sized = _with_size(combination, size)
        made = [METHODS.load(name)(**options) for name, options in sized]
        return sum((delta.count(site) for delta in made), Cost())[measure]

    smallest = [METHODS.load(name)(**options) for name, options in _with_size(combination, 1)]
    bounds = [most for delta in smallest if (most := delta.most(site)) is not None]
    top = min([room, *map(price, bounds)])
    for size in dict.fromkeys(largest_size(price, int(top * share)) for share in SHARES):
        if size:
            yield make_choice(_with_size(combination, size))


def _with_size(combination: Combination, size: int) -> Combination:
    return [
        (name, {key: size if value == BUDGET else value for key, value in options.items()})
        for name, options in combination
    ]
