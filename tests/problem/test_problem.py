"""A problem knows what fits; decoding makes any proposal fit and leaves a fitting one alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from autotune.errors import BudgetError, PlanError
from autotune.problem.budget import Budget, Cost, Measure
from autotune.problem.method_facts import MethodFacts
from autotune.problem.plan import FROZEN, Choice, Plan
from autotune.problem.problem import Problem, decode, require_room

examples = settings(deadline=None, derandomize=True)
LOWRANK = [Choice.of("lowrank", rank=rank) for rank in (1, 2, 4, 8)]
SCALE = Choice.of("scale")
OFFERS = [*LOWRANK, SCALE]


def price(n: int) -> Cost:
    """Cost of `n` parameters and 4·n bytes, with one further stored value."""
    return Cost(n, n + 1, 4 * n)


def problem_of(
    prices: Mapping[str, Mapping[Choice, int]], limit: int, *, fixed: int = 0
) -> Problem:
    candidates = {u: {c: price(n) for c, n in offers.items()} for u, offers in prices.items()}
    return Problem.of(candidates, Budget(limit, total=10**6, text=str(limit)), fixed=price(fixed))


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Slack ones, tight ones, ones in which only *frozen* fits, equal costs, `fixed` charges."""
    most = draw(st.sampled_from([1, 3, 1000]))
    offers = st.dictionaries(st.sampled_from(OFFERS), st.integers(1, most), min_size=1, max_size=5)
    chosen = draw(st.lists(offers, min_size=1, max_size=6))
    candidates = {f"u{i}": {c: price(n) for c, n in o.items()} for i, o in enumerate(chosen)}
    budget = Budget(
        draw(st.integers(1, 6 * most)), total=10**6, measure=draw(st.sampled_from(Measure))
    )
    return Problem.of(candidates, budget, fixed=price(draw(st.sampled_from([0, 0, 1, most]))))


@st.composite
def proposals(draw: st.DrawFn) -> tuple[Problem, dict[str, str]]:
    problem = draw(problems())
    labels = {u: [c.label for c in problem.choices[u]] for u in problem.units}
    return problem, {unit: draw(st.sampled_from(labels[unit])) for unit in problem.units}


@examples
@given(problems())
def test_a_choice_is_offered_exactly_when_it_fits_alone(problem):
    for unit in problem.units:
        first, *others = problem.choices[unit]
        assert (first, problem.price(unit, first)) == (FROZEN, 0)
        assert all(problem.fits(Plan({unit: choice})) for choice in others)
        assert all(0 < problem.price(unit, choice) <= problem.room for choice in others)
    assert problem.is_empty() == all(len(c) == 1 for c in problem.choices.values())


@examples
@given(proposals())
def test_a_plan_costs_what_its_choices_cost_and_fits_within_the_room(case):
    problem, proposal = case
    plan = Plan({unit: problem.choice(unit, label) for unit, label in proposal.items()})
    paid = sum(problem.price(unit, plan[unit]) for unit in problem.units)
    assert problem.cost(plan)[problem.budget.measure] == paid
    assert problem.labels(plan) == proposal
    assert problem.fits(plan) == (paid <= max(problem.room, 0))
    if problem.room >= 0:
        assert problem.fits(plan) == problem.budget.fits(problem.cost(plan) + problem.fixed)


@examples
@given(proposals())
def test_a_decoded_plan_always_fits(case):
    problem, proposal = case
    plan = decode(problem, proposal)
    assert problem.fits(plan)
    assert all(plan[unit] in problem.choices[unit] for unit in problem.units)
    assert set(plan) <= {unit for unit, label in proposal.items() if label != "frozen"}


@examples
@given(proposals(), st.randoms())
def test_decoding_does_not_depend_on_order_or_on_frozen_units(case, random):
    problem, proposal = case
    shuffled = [(unit, label) for unit, label in proposal.items() if label != "frozen"]
    random.shuffle(shuffled)
    assert decode(problem, dict(shuffled)) == decode(problem, proposal)


@examples
@given(proposals())
def test_decoding_leaves_a_fitting_proposal_as_it_is(case):
    problem, proposal = case
    wanted = Plan({unit: problem.choice(unit, label) for unit, label in proposal.items()})
    assume(problem.fits(wanted))
    assert decode(problem, proposal) == wanted
    decoded = decode(problem, proposal)
    assert decode(problem, problem.labels(decoded)) == decoded


@examples
@given(proposals())
def test_a_decoded_choice_keeps_its_methods_and_gets_no_more_expensive(case):
    problem, proposal = case
    plan = decode(problem, proposal)
    for unit in plan:
        wanted = problem.choice(unit, proposal[unit])
        assert plan[unit].names == wanted.names
        assert problem.price(unit, plan[unit]) <= problem.price(unit, wanted)


@examples
@given(proposals())
def test_decoding_wastes_no_room_that_a_frozen_unit_could_use(case):
    problem, proposal = case
    plan = decode(problem, proposal)
    left = problem.room - problem.cost(plan)[problem.budget.measure]
    for unit, label in proposal.items():
        if plan[unit].is_frozen() and label != "frozen":
            assert problem.price(unit, problem.choice(unit, label)) > left


ALONE, BYPASS = Choice.of("bypass", width=1), MethodFacts(frozenset({"bypass"}))


@examples
@given(proposals(), st.integers(1, 1000))
def test_a_choice_that_must_be_alone_is_alone_in_every_decoded_plan(case, dear):
    problem, proposal = case
    offers = {u: {c: problem.costs[u, c.label] for c in problem.choices[u][1:]} for u in proposal}
    whole = Problem.of({**offers, "network": {ALONE: price(dear)}}, problem.budget, methods=BYPASS)
    wanted = {**proposal, "network": whole.choices["network"][-1].label}
    plan = decode(whole, wanted)
    assert whole.fits(plan)
    assert "network" not in plan.choices or len(plan) == 1


def test_of_two_places_the_one_that_must_be_alone_comes_first_as_often():
    prices = {**dict.fromkeys("abc", dict.fromkeys(LOWRANK, 10)), "network": {ALONE: 10}}
    problem = replace(problem_of(prices, 40), methods=BYPASS)
    labels = [choice.label for choice in LOWRANK]
    rows = [
        {**dict(zip("abc", row, strict=True)), "network": ALONE.label}
        for row in product(labels, repeat=3)
    ]
    alone = sum("network" in decode(problem, row).choices for row in rows)
    assert 8 <= alone <= 24, "about a quarter of 64"


def test_decoding_favours_no_unit():
    problem = problem_of(dict.fromkeys("abcd", dict.fromkeys(LOWRANK, 10)), 10)
    labels = [choice.label for choice in LOWRANK]
    proposals = [dict(zip("abcd", row, strict=True)) for row in product(labels, repeat=4)]
    winners = Counter(unit for proposal in proposals for unit in decode(problem, proposal))
    assert winners.total() == len(proposals) == 256
    assert min(winners[unit] for unit in "abcd") > 40


def test_a_choice_that_is_too_expensive_becomes_the_most_expensive_of_its_methods_that_fits():
    lowrank = dict(zip(LOWRANK, (10, 20, 40, 80), strict=True))
    problem = problem_of({"a": {**lowrank, SCALE: 45}, "b": {**lowrank, SCALE: 45}}, 130)
    plan = decode(problem, {"a": "lowrank-8", "b": "lowrank-8"})
    assert sorted(choice.label for choice in plan.choices.values()) == ["lowrank-4", "lowrank-8"]


def test_of_equally_expensive_choices_the_last_label_is_taken():
    prices = {LOWRANK[0]: 30, LOWRANK[1]: 30, LOWRANK[2]: 30, LOWRANK[3]: 80}
    problem = problem_of({"a": prices, "b": prices}, 120)
    plan = decode(problem, {"a": "lowrank-8", "b": "lowrank-8"})
    assert sorted(choice.label for choice in plan.choices.values()) == ["lowrank-4", "lowrank-8"]


def test_without_room_every_proposal_becomes_the_empty_plan():
    problem = problem_of({"a": {SCALE: 5}, "b": {SCALE: 7}}, 10, fixed=12)
    assert problem.room == -2
    assert problem.is_empty()
    assert decode(problem, {"a": "frozen", "b": "frozen"}) == Plan()
    assert problem.fits(Plan())


@pytest.mark.parametrize(
    ("unit", "label"), [("a", "lowrank-9"), ("a", ""), ("nowhere", "scale"), ("a", "lowrank-8")]
)
def test_a_label_that_is_no_choice_is_refused_by_name(unit, label):
    problem = problem_of({"a": {LOWRANK[0]: 10, LOWRANK[3]: 80}}, 50)
    with pytest.raises(PlanError, match=f"Unit '{unit}' has no choice '{label}'"):
        decode(problem, {unit: label})
    with pytest.raises(PlanError):
        problem.choice(unit, label)


def test_a_budget_in_which_nothing_fits_names_the_cheapest_choice():
    dear, cheap = {LOWRANK[3]: price(4000)}, {LOWRANK[0]: price(1300), SCALE: price(1200)}
    candidates = {"a": dear, "b": cheap}
    budget = Budget(1100, total=10**6, text="1.1k")
    with pytest.raises(BudgetError) as error:
        require_room(Problem.of(candidates, budget), candidates)
    assert str(error.value) == (
        "The budget '1.1k' allows 1,100 parameters, but the cheapest choice (scale in b) needs "
        "1,200. Raise the budget."
    )


def test_what_is_already_taken_is_named_in_the_budgets_measure():
    candidates = {"a": {SCALE: price(300)}}
    budget = Budget(2000, total=10**6, measure=Measure.BYTES, text="2kB")
    with pytest.raises(BudgetError) as error:
        require_room(Problem.of(candidates, budget, fixed=price(250)), candidates)
    assert "allows 2,000 bytes, of which 1,000 are already taken" in str(error.value)
    assert "(scale in a) needs 1,200" in str(error.value)


def test_a_space_that_no_unit_takes_is_refused():
    candidates: dict[str, dict[Choice, Cost]] = {"a": {}}
    problem = Problem.of(candidates, Budget(10, total=100))
    with pytest.raises(BudgetError, match=r"takes any choice of the space\. Change --space"):
        require_room(problem, candidates)


@examples
@given(problems())
def test_room_is_required_exactly_of_empty_problems(problem):
    candidates = {unit: {SCALE: price(10**6)} for unit in problem.units}
    if problem.is_empty():
        with pytest.raises(BudgetError, match=r"needs [14],000,000\."):
            require_room(problem, candidates)
    else:
        require_room(problem, candidates)
