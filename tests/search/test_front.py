"""The front of value and cost: correct, spread over the budget, and kept by pruning."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState

from autotune.budget import Cost
from autotune.front import PARTS, front
from autotune.plan import Choice, Plan
from autotune.records import TrialRecord
from autotune.trial import Job, Progress

from .table_engine import TableEngine
from .test_study import run

POINTS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=30)


def record(number: int, value: int, cost: int) -> TrialRecord:
    plan = Plan({"unit": Choice.of("sparse", k=number + 1)})
    return TrialRecord(number, TrialState.COMPLETE, plan, {}, Cost(cost, cost, cost), value)


@given(POINTS)
def test_no_point_is_dominated_and_every_other_one_is(points):
    records = [record(n, value, cost) for n, (value, cost) in enumerate(points)]
    found = front(records, lambda cost: cost.parameters)

    def beats(a: TrialRecord, b: TrialRecord) -> bool:
        better = (a.value, -a.cost.parameters), (b.value, -b.cost.parameters)
        return all(x >= y for x, y in zip(*better, strict=True)) and better[0] != better[1]

    assert not any(beats(a, b) for a in records for b in found)
    points_found = {(r.value, r.cost.parameters) for r in found}
    for other in records:
        same = (other.value, other.cost.parameters) in points_found
        assert same or any(beats(a, other) for a in found)
    assert len(points_found) == len(found)


@pytest.mark.parametrize("strategy", ["random", "tpe", "policy", "nsga2"])
def test_trials_are_spread_over_the_budget(driving, problem, strategy):
    with driving(trials=12, strategy=strategy, objective="accuracy,cost") as driver:
        trials = run(driver, TableEngine())
    for trial in trials:
        part = PARTS[trial.number % len(PARTS)]
        assert trial.cost.parameters <= part * problem.budget.limit


class Saturating(TableEngine):
    """What costs more is a little better, and so at every step."""

    def progress(self, job: Job, step: int) -> Progress:
        cost = sum(
            len(choice.label) * (10 + len(unit)) for unit, choice in job.plan.choices.items()
        )
        value = step / 100 + cost / 1e4
        return Progress(step, value, {"accuracy": value}, b"1", b"delta")


def test_pruning_loses_nothing_of_the_front_to_dearer_plans(driving, new_run):
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


def test_every_point_keeps_its_delta_file(driving):
    with driving(trials=30, strategy="random", objective="accuracy,cost") as driver:
        trials = run(driver, TableEngine())
        points = front(trials, lambda cost: cost.parameters)
        assert all(driver.folder.delta(point.number).is_file() for point in points)
