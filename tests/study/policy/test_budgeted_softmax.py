"""Softmax under a budget."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.problem.problem import Problem
from autotune.study.policy.budgeted_softmax import Menu

from .problems import problem_of, problems

seeds = st.integers(0, 2**32 - 1)
sharpness = st.sampled_from([0.0, 0.1, 1.0, 10.0, 100.0])


def logits_of(menu: Menu, seed: int, scale: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(len(menu.places), generator=generator, dtype=torch.float64)


def expected_cost(menu: Menu, logits: torch.Tensor) -> float:
    return float((menu.probabilities(logits) * menu.price).sum())


@settings(max_examples=300, deadline=None)
@given(problem=problems(), seed=seeds, scale=sharpness)
def test_the_expected_cost_is_the_room_or_what_it_is_without_a_multiplier(problem, seed, scale):
    menu = Menu.of(problem)
    logits = logits_of(menu, seed, scale)
    free = torch.cat([p.softmax(0) for p in logits.split(torch.bincount(menu.unit).tolist())])
    asked = min(1.0, float((free * menu.price).sum()))
    assert expected_cost(menu, logits) == pytest.approx(asked, rel=1e-6)
    assert float(menu.multiplier(logits)) >= 0


@settings(max_examples=100, deadline=None)
@given(problem=problems(), seed=seeds, scale=sharpness)
def test_probabilities_sum_to_one_in_every_unit(problem, seed, scale):
    menu = Menu.of(problem)
    p = menu.probabilities(logits_of(menu, seed, scale))
    sums = torch.zeros(len(problem.units), dtype=p.dtype).index_add(0, menu.unit, p)
    assert torch.allclose(sums, torch.ones_like(sums)) and bool((p >= 0).all())


@settings(max_examples=60, deadline=None)
@given(problem=problems(), seed=seeds, scale=st.sampled_from([0.1, 1.0, 3.0]))
def test_gradients_agree_with_finite_differences(problem, seed, scale):
    menu = Menu.of(problem)
    logits = logits_of(menu, seed, scale)
    if 0 < float(menu.multiplier(logits)) < 1e-3:
        return  # too near the kink between a slack and a binding budget
    assert torch.autograd.gradcheck(menu.probabilities, logits.requires_grad_(), atol=1e-5)


def test_what_one_choice_gains_the_others_lose():
    menu = Menu.of(problem_of([[20, 30], [30, 31], [30]], 32))
    logits = (logits_of(menu, 0, 1.0) + 2 * (menu.price > 0)).requires_grad_()
    cost = (menu.probabilities(logits) * menu.price).sum()
    (gradient,) = torch.autograd.grad(cost, logits)
    assert cost.item() == pytest.approx(1.0) and gradient.abs().max() < 1e-9


def test_a_slack_budget_needs_no_multiplier():
    menu = Menu.of(problem_of([[50, 100], [80]], 10_000))
    assert float(menu.multiplier(logits_of(menu, 0, 1.0))) == 0


def test_with_nothing_affordable_everything_stays_frozen():
    problem = problem_of([[50, 100], [80]], 10)
    assert problem.is_empty()
    menu = Menu.of(problem)
    assert menu.probabilities(torch.zeros(2)).tolist() == [1.0, 1.0]


def test_equal_costs_leave_the_order_to_the_logits():
    menu = Menu.of(problem_of([[100]] * 4, 200))
    logits = torch.tensor([0.0, 2.0, 0.0, 1.0, 0.0, 0.0, 0.0, -1.0])
    p = menu.probabilities(logits)[1::2].tolist()
    assert sum(p) == pytest.approx(2.0) and p == sorted(p, reverse=True)


def test_logits_so_sharp_that_they_are_decisions_keep_the_budget():
    menu = Menu.of(problem_of([[60, 100], [80, 90], [70]], 150))
    assert expected_cost(menu, logits_of(menu, 1, 1e5)) <= 1 + 1e-6


def test_the_menu_names_every_choice_with_frozen_first():
    problem: Problem = problem_of([[5, 6], [7]], 100)
    places = Menu.of(problem).places
    assert places[0] == ("unit0", "frozen") and places[3] == ("unit1", "frozen")
    assert {unit for unit, _ in places} == {*problem.units}
