"""The knapsack is exact: the best sum of scores that fits, and the cheapest way to it."""

from __future__ import annotations

import random
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.problem.budget import Budget, Cost
from autotune.problem.knapsack import Scores, best_plan
from autotune.problem.method_facts import MethodFacts
from autotune.problem.plan import FROZEN, Choice, Plan
from autotune.problem.problem import Problem

examples = settings(deadline=None, derandomize=True)
RANKS = [Choice.of("lowrank", rank=rank) for rank in (1, 2, 4, 8)]


ALONE, BYPASS = Choice.of("bypass", width=1), MethodFacts(frozenset({"bypass"}))


def problem_of(prices: list[list[int]], limit: int, *, fixed: int = 0) -> Problem:
    """Unit `ui` has a lowrank choice for each of its prices."""
    costs = [{RANKS[j]: Cost(n, n, 4 * n) for j, n in enumerate(row)} for row in prices]
    candidates = {f"u{i}": offers for i, offers in enumerate(costs)}
    return Problem.of(candidates, Budget(limit, total=10**9), fixed=Cost(fixed))


def with_alone(problem: Problem, price: int) -> Problem:
    """The same problem and a span whose only choice takes no other beside it."""
    units = {
        u: {c: problem.costs[u, c.label] for c in problem.choices[u][1:]} for u in problem.units
    }
    offers = {**units, "network": {ALONE: Cost(price, price, 4 * price)}}
    return Problem.of(offers, problem.budget, fixed=problem.fixed, methods=BYPASS)


def total(problem: Problem, scores: Scores, plan: Plan) -> float:
    return sum(scores.get((unit, plan[unit].label), 0.0) for unit in problem.units)


def paid(problem: Problem, plan: Plan) -> int:
    return problem.cost(plan)[problem.budget.measure]


def by_brute_force(problem: Problem, scores: Scores) -> tuple[float, int]:
    """Largest sum of scores of any plan that fits, and the least that it can cost."""
    every = product(*(problem.choices[unit] for unit in problem.units))
    named = (dict(zip(problem.units, chosen, strict=True)) for chosen in every)
    allowed = (p for p in named if p.get("network") != ALONE or len(taken(p)) == 1)
    fitting = filter(problem.fits, map(Plan, allowed))
    score, cost = max((total(problem, scores, plan), -paid(problem, plan)) for plan in fitting)
    return score, -cost


def taken(choices: dict[str, Choice]) -> list[str]:
    return [unit for unit, choice in choices.items() if choice != FROZEN]


@st.composite
def cases(draw: st.DrawFn) -> tuple[Problem, dict[tuple[str, str], float]]:
    """Integer-valued scores, so that sums are exact; few different costs make ties."""
    most, lowest = draw(st.sampled_from([2, 10, 500])), draw(st.sampled_from([0, -5]))
    row = st.lists(st.integers(1, most), min_size=1, max_size=4)
    prices = draw(st.lists(row, min_size=1, max_size=5))
    fixed = draw(st.sampled_from([0, 0, most]))
    problem = problem_of(prices, draw(st.integers(1, 4 * most)), fixed=fixed)
    keys = [(unit, c.label) for unit in problem.units for c in problem.choices[unit]]
    return problem, draw(st.dictionaries(st.sampled_from(keys), st.integers(lowest, 9).map(float)))


@examples
@given(cases())
def test_the_best_plan_is_what_brute_force_finds_at_the_least_cost(case):
    problem, scores = case
    plan = best_plan(problem, scores)
    assert (total(problem, scores, plan), paid(problem, plan)) == by_brute_force(problem, scores)


@examples
@given(cases(), st.integers(1, 600), st.integers(-5, 40))
def test_a_choice_that_must_be_alone_is_compared_with_all_others_together(case, price, score):
    problem, scores = case
    problem = with_alone(problem, price)
    scores = {**scores, ("network", ALONE.label): float(score)}
    plan = best_plan(problem, scores)
    assert (total(problem, scores, plan), paid(problem, plan)) == by_brute_force(problem, scores)


@examples
@given(cases(), st.integers(0, 2**32))
def test_the_best_plan_fits_and_is_no_worse_for_scores_of_any_size(case, seed):
    problem, _ = case
    draw = random.Random(seed)
    keys = [(unit, c.label) for unit in problem.units for c in problem.choices[unit]]
    scores = {key: draw.gauss(0, 1) * 10.0 ** draw.randint(-9, 9) for key in keys}
    plan = best_plan(problem, scores)
    assert problem.fits(plan)
    size = sum(map(abs, scores.values()))
    best, _ = by_brute_force(problem, scores)
    assert total(problem, scores, plan) == pytest.approx(best, rel=0, abs=1e-9 * size)


@pytest.mark.parametrize("seed", range(20))
def test_large_scores_that_cancel_out_are_no_trouble(seed):
    draw = random.Random(seed)
    problem = problem_of([[draw.randint(1, 900) for _ in range(3)] for _ in range(6)], 2000)
    scores = {(unit, "frozen"): -1e12 for unit in problem.units}
    for unit in problem.units:
        for choice in problem.choices[unit][1:]:
            scores[unit, choice.label] = 1e12 * draw.choice([1, 0.5, -1]) + draw.gauss(0, 1)
    plan = best_plan(problem, scores)
    assert total(problem, scores, plan) == pytest.approx(by_brute_force(problem, scores)[0], abs=1)


def test_the_most_expensive_gain_is_left_when_two_smaller_ones_pay_more():
    problem = problem_of([[60], [50], [50]], 100)
    scores = {("u0", "lowrank-1"): 7.0, ("u1", "lowrank-1"): 4.0, ("u2", "lowrank-1"): 4.0}
    assert list(best_plan(problem, scores)) == ["u1", "u2"]


def test_of_equally_good_plans_the_cheapest_is_taken():
    problem = problem_of([[30, 10, 20]], 100)
    scores = {("u0", c.label): 1.0 for c in RANKS}
    assert best_plan(problem, scores) == Plan({"u0": RANKS[1]})


def test_without_scores_or_with_losses_alone_nothing_is_changed():
    problem = problem_of([[10, 20], [10, 20]], 100)
    losses = {(unit, c.label): -1.0 for unit in problem.units for c in RANKS}
    assert best_plan(problem, {}) == Plan()
    assert best_plan(problem, losses) == Plan()


def test_a_score_of_frozen_counts():
    problem = problem_of([[10]], 100)
    scores = {("u0", FROZEN.label): 2.0, ("u0", "lowrank-1"): 1.0}
    assert best_plan(problem, scores) == Plan()
    assert best_plan(problem, {**scores, ("u0", FROZEN.label): 0.5}) == Plan({"u0": RANKS[0]})


def test_a_budget_that_is_already_taken_leaves_the_empty_plan():
    problem = problem_of([[10], [20]], 100, fixed=150)
    assert best_plan(problem, {("u0", "lowrank-1"): 1.0}) == Plan()


def test_two_hundred_units_give_what_plain_dynamic_programming_gives():
    unit_price, limit, draw = 1000, 858_000, random.Random(7)
    prices = [[draw.randint(1, 60) * unit_price for _ in range(4)] for _ in range(200)]
    problem = problem_of(prices, limit)
    scores = {(u, c.label): float(draw.randint(-20, 1000)) for u in problem.units for c in RANKS}
    best = np.zeros(limit // unit_price + 1)
    for unit in problem.units:
        before = best.copy()
        for choice in problem.choices[unit][1:]:
            n = problem.price(unit, choice) // unit_price
            best[n:] = np.maximum(best[n:], before[: len(best) - n] + scores[unit, choice.label])
    plan = best_plan(problem, scores)
    assert total(problem, scores, plan) == best[-1]
    assert paid(problem, plan) == unit_price * int(np.argmax(best == best[-1]))
