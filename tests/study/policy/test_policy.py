"""Scores, plans and training of the policy from proxies and credits."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.problem.budget import Budget, Cost
from autotune.problem.knapsack import best_plan
from autotune.problem.method_facts import MethodFacts
from autotune.problem.plan import Choice
from autotune.problem.problem import Problem
from autotune.study.policy.policy import Policy
from autotune.study.policy.rounds import Course, Schedule, alike, run_rounds

from .problems import CHOICES, problem_of, problems


def measured_of(problem, seed=0):
    draw = random.Random(seed)
    return {
        (unit, method.label): {"mass": draw.random(), "chance": draw.random(), "relative": 0.5}
        for unit in problem.units
        for choice in problem.choices[unit]
        for method in choice.methods
    }


@pytest.fixture
def problem():
    return problem_of([[20, 60, 120, 240, 80, 30]] * 5, 300)


@pytest.fixture
def policy(problem):
    return Policy(problem, measured_of(problem), seed=0)


def credits_of(policy, value):
    """Credits `value(unit, label)` of every single method, for three batches."""
    return {entry: [value(*entry)] * 3 for entry in policy.measured}


@settings(max_examples=60, deadline=None)
@given(problem=problems().filter(lambda p: not p.is_empty()), seed=st.integers(0, 9))
def test_its_plan_and_its_probabilities_keep_the_budget(problem, seed):
    policy = Policy(problem, measured_of(problem, seed), seed=seed)
    policy.observe(credits_of(policy, lambda unit, label: hash((unit, label, seed)) % 7 - 2))
    assert problem.fits(policy.plan())
    cost = sum(p * problem.costs[place].parameters for place, p in policy.probabilities().items())
    assert cost <= problem.room * (1 + 1e-6)


def random_problem(seed: int) -> Problem:
    draw = random.Random(seed)
    candidates = {}
    for i in range(draw.randint(1, 12)):
        offered = draw.sample(CHOICES, draw.randint(1, len(CHOICES)))
        largest = draw.choice([3, 100, 10**5])
        prices = {c: draw.randint(1, largest) for c in offered}
        candidates[f"unit{i}"] = {c: Cost(k, k, 4 * k) for c, k in prices.items()}
    if draw.random() < 0.3:
        candidates["network"] = {
            Choice.of("bypass", width=1): Cost(k := draw.randint(1, 500), k, k)
        }
    budget = Budget(draw.choice([1, 50, 5000, 10**6]), 10**9)
    return Problem.of(candidates, budget, methods=MethodFacts(frozenset({"bypass"})))


@pytest.mark.slow
@settings(max_examples=5_000, deadline=None)
@given(seed=st.integers(0, 2**48))
def test_every_decoded_plan_is_within_the_budget(seed):
    problem = random_problem(seed)
    draw = random.Random(seed)
    scores = {entry: draw.gauss(0, 1) for entry in problem.costs}
    assert problem.fits(best_plan(problem, scores))


def test_without_credits_it_does_what_the_proxies_say(policy):
    assert policy.plan() == policy.first_plan()
    assert policy.moved() == 0


def test_credits_of_nothing_change_nothing(policy):
    policy.observe(credits_of(policy, lambda unit, label: 0.0))
    assert policy.plan() == policy.first_plan() and policy.moved() == 0


def test_what_earns_is_chosen(policy):
    policy.observe(credits_of(policy, lambda unit, label: float(unit in ("unit1", "unit3"))))
    labels = policy.problem.labels(policy.plan())
    assert labels["unit1"] != "frozen" != labels["unit3"] and policy.moved() > 0.05


def test_what_earns_in_some_units_is_expected_to_earn_in_others(policy):
    """A method that earned in two observed units is preferred in the other three."""
    before = policy.scores()
    known = credits_of(policy, lambda unit, label: float("lowrank" in label))
    policy.observe({e: s for e, s in known.items() if e[0] in ("unit0", "unit2")})
    after = policy.scores()
    ratio = {
        label: after["unit1", label] / before["unit1", label] for label in ("scale", "lowrank-2")
    }
    assert ratio["lowrank-2"] > 1.2 * ratio["scale"]


def test_choices_without_strands_are_known_as_unseen(problem):
    measured = {e: m for e, m in measured_of(problem).items() if e[1] != "scale"}
    policy = Policy(problem, measured, seed=0)
    assert {label for _, label in policy.unseen()} == {"scale"}
    assert problem.fits(policy.plan())


def test_the_network_learns_what_paid_and_takes_it_along(policy):
    """Trained that only `scale` is worth it, the network prefers `scale` on an unseen problem."""
    target = {entry: float(entry[1] == "scale") for entry in policy.entries}
    network = policy.learned(target)
    other = problem_of([[25, 70, 130, 250, 90, 35]] * 3, 150)
    fresh = Policy(other, measured_of(other, 5), seed=0).first_plan()
    taught = Policy(other, measured_of(other, 5), network, seed=0).first_plan()

    def n_scales(plan):
        return sum("scale" in plan[unit].names for unit in plan)

    assert n_scales(taught) == 3 > n_scales(fresh)


class Fake:
    """Supernet whose units earn a function of the round."""

    def __init__(self, policy, value):
        self.policy, self.value, self.round, self.looks = policy, value, 0, 0

    def train(self):
        self.round += 1

    def credits(self):
        self.looks += 1
        return credits_of(self.policy, lambda unit, label: self.value(self.round, unit))


def test_rounds_end_when_the_plan_stays_the_same(policy):
    shot, course = Fake(policy, lambda n, unit: float(unit == "unit1")), Course()
    done = [c.done for c in run_rounds(policy, shot, Schedule(2, 30), course)]
    assert course.is_stable and done == [1, 2, 3, 4, 5]
    assert shot.looks == 3 == len(course.plans) == len(course.probabilities)


def test_rounds_that_are_over_before_it_know_it(policy):
    def restless(n, unit):
        return 10.0**n * (unit == f"unit{n % 5}")

    course = Course()
    assert len([*run_rounds(policy, Fake(policy, restless), Schedule(0, 6), course)]) == 6
    assert not course.is_stable


def test_plans_are_alike_by_the_share_of_equal_choices(problem):
    plan = Policy(problem, measured_of(problem), seed=0).plan()
    assert alike(plan, plan) == 1
    (unit, *_), smaller = [*plan], dict(plan.choices)
    del smaller[unit]
    assert alike(plan, type(plan)(smaller)) == pytest.approx(1 - 1 / len(plan))


@pytest.mark.parametrize("epochs", [1, 2, 3, 5, 10, 15, 100])
def test_a_schedule_leaves_credits_at_least_two_rounds_and_is_shorter_than_a_trial(epochs):
    schedule = Schedule.of(epochs)
    assert schedule.rounds - schedule.warmup >= 2
    assert epochs < 5 or schedule.rounds < epochs
