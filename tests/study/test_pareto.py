"""The front of value and cost: correct, spread over the budget, and kept by pruning."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState, create_trial

from autotune.problem.budget import Budget, Cost
from autotune.problem.job import Job, Progress
from autotune.problem.plan import Choice, Plan
from autotune.problem.sampling import seed_of
from autotune.study.pareto import (
    BUDGET_FRACTIONS,
    front,
    objective_price,
    part_of,
    trial_price,
)
from autotune.study.pruners import PRUNERS
from autotune.study.strategies import STRATEGIES
from autotune.study.strategies.base import plan_of, search_space
from autotune.study.strategies.nsga2 import POPULATION
from autotune.study.trial_record import TrialRecord

from .table_engine import TableEngine
from .test_driver import run

SMALL = 7
"""A budget of which an eighth is less than one parameter."""

POINTS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=30)


def record(number: int, value: int, cost: int) -> TrialRecord:
    plan = Plan({"unit": Choice.of("sparse", k=number + 1)})
    return TrialRecord(number, TrialState.COMPLETE, plan, {}, Cost(cost, cost, cost), value)


@given(POINTS)
def test_no_point_is_dominated_and_every_other_one_is(points):
    records = [record(n, value, cost) for n, (value, cost) in enumerate(points)]
    on_front = front(records, lambda cost, _: cost.parameters)

    def beats(a: TrialRecord, b: TrialRecord) -> bool:
        better = (a.value, -a.cost.parameters), (b.value, -b.cost.parameters)
        return all(x >= y for x, y in zip(*better, strict=True)) and better[0] != better[1]

    assert not any(beats(a, b) for a in records for b in on_front)
    points_found = {(r.value, r.cost.parameters) for r in on_front}
    for other in records:
        same = (other.value, other.cost.parameters) in points_found
        assert same or any(beats(a, other) for a in on_front)
    assert len(points_found) == len(on_front)


@pytest.mark.parametrize("strategy", ["random", "tpe", "policy"])
def test_trials_are_spread_over_the_budget(driving, problem, strategy):
    with driving(trials=12, strategy=strategy, objective="accuracy,cost") as driver:
        trials = run(driver, TableEngine())
    for trial in trials:
        part = BUDGET_FRACTIONS[trial.number % len(BUDGET_FRACTIONS)]
        assert trial.cost.parameters <= part * problem.budget.limit


def genetic(problem, price: Any) -> Any:
    grids = {"lr:head": (0.1, 1.0), "weight_decay": (0.0,)}
    sampler = STRATEGIES.load("nsga2")(problem, grids, seed=3)
    sampler.price = price
    return sampler, search_space(problem, grids)


def asked(study: optuna.Study, space: Any, n: int) -> list[dict[str, Any]]:
    """Parameters of the next trials; values depend on them alone."""
    params = []
    for _ in range(n):
        trial = study.ask(dict(space))
        params.append(dict(trial.params))
        study.tell(trial, seed_of(sorted(trial.params.items())) % 1000)
    return params


def test_nsga2_seeks_the_front_on_two_values(problem):
    """With a price that punishes expensive plans its later plans are cheaper than without."""
    total = {}
    for name, price in {"value": None, "front": "cost"}.items():
        of = price and trial_price(problem, objective_price("accuracy,cost", problem))
        sampler, space = genetic(problem, of)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        plans = [plan_of(problem, params) for params in asked(study, space, 5 * POPULATION)]
        later = plans[2 * POPULATION :]
        total[name] = sum(problem.cost(plan).parameters for plan in later)
    assert total["front"] < 0.9 * total["value"]


def test_nsga2_on_two_values_resumes_where_it_was(problem):
    """A sampler made anew copies the record and proposes what the old one would have."""
    price = trial_price(problem, objective_price("accuracy,cost", problem))
    sampler, space = genetic(problem, price)
    whole = asked(optuna.create_study(direction="maximize", sampler=sampler), space, 70)
    first, _ = genetic(problem, price)
    study = optuna.create_study(direction="maximize", sampler=first)
    begun = asked(study, space, 45)
    study.sampler, _ = genetic(problem, price)
    assert begun + asked(study, space, 25) == whole


class Measuring(TableEngine):
    """Longer plans take longer, as only their trials tell."""

    def progress(self, job: Job, step: int) -> Progress:
        metrics = {"accuracy": step / 10, "latency": 1.0 + len(job.plan)}
        return Progress(step, step / 10, metrics, b"1", b"delta")


def test_a_measured_price_is_known_from_the_first_report_on(driving):
    """Also of trials that are pruned; it is written once."""
    how = {"strategy": "random", "objective": "accuracy,latency"}
    with driving(trials=20, **how) as driver:
        trials = run(driver, Measuring())
        price = objective_price("accuracy,latency", driver.problem)
        points = front(trials, price)
        stored = driver.study.get_trials(deepcopy=False)
    for trial, frozen in zip(trials, stored, strict=True):
        if trial.repeat_of is None:
            assert frozen.user_attrs["measured"] == {"latency": 1.0 + len(trial.plan)}
    shortest = min(len(t.plan) for t in trials if t.is_complete)
    assert [price(p.cost, p.metrics) for p in points] == [1.0 + shortest], "all values are equal"


class Saturating(TableEngine):
    """What costs more is a little better, and so at every step."""

    def progress(self, job: Job, step: int) -> Progress:
        cost = sum(
            len(choice.label) * (10 + len(unit)) for unit, choice in job.plan.choices.items()
        )
        value = step / 100 + cost / 1e4
        return Progress(step, value, {"accuracy": value}, b"1", b"delta")


@pytest.mark.slow
def test_pruning_loses_nothing_of_the_front_to_more_expensive_plans(driving, new_run):
    """Without a second objective the cheap half would end early."""
    kept = {}
    for name, objective in (("front", "accuracy,cost"), ("value", "")):
        how = {"strategy": "random", "pruner": "halving", "objective": objective}
        with driving(at=new_run(name), trials=40, **how) as driver:
            trials = run(driver, Saturating())
        kept[name] = [t for t in trials if t.state_name == "complete"]
    assert len(kept["front"]) > len(kept["value"])
    cheapest = min(kept["front"], key=lambda t: t.cost.parameters).cost.parameters
    assert cheapest < min(t.cost.parameters for t in kept["value"])


def by_forecast(values: list[float], prices: list[int], forecast: float, price: int) -> bool:
    """Whether a trial at `forecast` after 2 of 4 steps ends; others gain 0.1 ± 0.01 later."""
    study = optuna.create_study(direction="maximize")
    for number, value in enumerate(values):
        gain = 0.1 + 0.01 * (-1) ** number
        steps = {1: value - 0.1, 2: value - gain, 3: value, 4: value}
        attrs = {"measured": {"latency": prices[number]}}
        study.add_trial(create_trial(value=value, intermediate_values=steps, user_attrs=attrs))
    pruner = PRUNERS.load("forecast")(8)
    pruner.price = lambda trial: trial.user_attrs["measured"]["latency"]
    attrs = {"measured": {"latency": price}}
    trial = create_trial(
        state=TrialState.RUNNING,
        intermediate_values={1: forecast - 0.1, 2: forecast},
        user_attrs=attrs,
    )
    study.add_trial(trial)
    return pruner.prune(study, study.trials[-1])


@pytest.mark.parametrize(
    ("forecast", "price", "ends"),
    [
        (0.50, 5, True),  # will get to 0.6, at most 0.63; no dearer one has 0.9
        (0.80, 5, False),  # will get to 0.9, more with luck
        (0.50, 1, False),  # none is as cheap
        (0.50, 2, True),  # the cheap ones have 0.7
        (0.58, 2, False),
        (float("nan"), 1, True),
    ],
)
def test_forecast_ends_what_has_no_chance(forecast, price, ends):
    values = [0.5, 0.6, 0.7, 0.65, 0.8, 0.85, 0.9, 0.75]
    prices = [2, 2, 2, 3, 4, 4, 5, 5]
    assert by_forecast(values, prices, forecast, price) == ends


def test_forecast_waits_until_it_knows_how_trials_continue():
    assert not by_forecast([0.5, 0.6, 0.7, 0.65, 0.8, 0.85, 0.9], [1] * 7, 0.1, 5)


def test_every_point_keeps_its_delta_file(driving):
    with driving(trials=30, strategy="random", objective="accuracy,cost") as driver:
        trials = run(driver, TableEngine())
        points = front(trials, lambda cost, _: cost.parameters)
        assert all(driver.folder.delta(point.number).is_file() for point in points)


@pytest.mark.parametrize("number", range(len(BUDGET_FRACTIONS)))
@pytest.mark.parametrize("strategy", ["random", "tpe", "gp"])
def test_every_part_of_a_small_budget_is_a_budget(problem, grids, strategy, number):
    small = replace(problem, budget=Budget(SMALL, problem.budget.total))
    part = part_of(small, number)
    assert 1 <= part.budget.limit <= SMALL
    sampler = STRATEGIES.load(strategy)(part, grids, seed=0)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for params in asked(study, search_space(part, grids), 12):
        assert part.fits(plan_of(part, params))
