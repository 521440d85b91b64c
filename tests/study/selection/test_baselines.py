"""Baselines: what a user would have done without a search."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.errors import TrialError
from autotune.problem.budget import Budget, Cost
from autotune.problem.grids import three_rates
from autotune.problem.job import Job, Progress
from autotune.problem.method_facts import MethodFacts
from autotune.problem.plan import Choice, Plan
from autotune.problem.problem import Problem
from autotune.problem.recipes import uniform_placement
from autotune.problem.sampling import random_placement
from autotune.study.backends.base import Source
from autotune.study.backends.inline import InlineBackend
from autotune.study.selection.baselines import baseline_plans, run_baselines
from autotune.study.selection.extra_jobs import best_job
from study.table_engine import TableEngine, looked_up

UNIFORM = MethodFacts(uniform="lowrank", uniform_size="rank")


def measured(content: bytes) -> dict[str, float]:
    return {"accuracy": len(content) / 100, "n": 10}


def ranks(plan: Plan) -> list[int]:
    return [int(dict(plan[unit].methods[0].options)["rank"]) for unit in plan]


def lowrank_problem(widths: list[int], limit: int) -> Problem:
    candidates = {
        f"unit{i}": {Choice.of("lowrank", rank=r): Cost(r * w, r * w, 4 * r * w) for r in (1, 2, 4)}
        for i, w in enumerate(widths)
    }
    return Problem.of(candidates, Budget(limit, 10**6), methods=UNIFORM)


# plans


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(1, 400))
def test_uniform_low_rank_fits_and_is_filled(widths, limit):
    """No unit could be raised by a rank without breaking the budget."""
    problem = lowrank_problem(widths, limit)
    plan = uniform_placement(problem)
    room = limit - problem.cost(plan).parameters
    assert room >= 0
    for unit, width in zip(problem.units, widths, strict=True):
        rank = dict(plan[unit].methods[0].options)["rank"] if unit in plan.choices else 0
        larger = [r for r in (1, 2, 4) if r > rank]
        assert all((r - rank) * width > room for r in larger)


def test_uniform_low_rank_is_as_even_as_the_budget_allows():
    assert ranks(uniform_placement(lowrank_problem([10, 10, 10], 60))) == [2, 2, 2]
    plan = uniform_placement(lowrank_problem([10, 20, 40], 100))
    assert {unit: c.label for unit, c in plan.choices.items()} == {
        "unit0": "lowrank-2",
        "unit1": "lowrank-2",
        "unit2": "lowrank-1",
    }


@pytest.mark.parametrize("seed", range(20))
def test_random_placement_fits_and_is_filled(problem, seed):
    plan = random_placement(problem, seed)
    room = problem.room - problem.cost(plan)[problem.budget.measure]
    assert room >= 0
    left = [u for u in problem.units if u not in plan.choices]
    assert all(problem.price(u, c) > room for u in left for c in problem.choices[u][1:])


def test_random_placement_sometimes_is_what_must_be_alone_and_then_nothing_else():
    alone = Choice.of("bypass", width=1)
    offers = {f"unit{i}": {Choice.of("lowrank", rank=1): Cost(5, 5, 20)} for i in range(3)}
    candidates = {**offers, "network": {alone: Cost(5, 5, 20)}}
    bypass = MethodFacts(frozenset({"bypass"}))
    problem = Problem.of(candidates, Budget(20, 10**6), methods=bypass)
    plans = [random_placement(problem, seed) for seed in range(40)]
    kinds = {("network" in plan.choices, len(plan)) for plan in plans}
    assert kinds == {(True, 1), (False, 3)}


def test_random_placement_is_a_function_of_the_seed(problem):
    plans = [random_placement(problem, seed) for seed in (0, 0, 1, 2, 3)]
    assert plans[0] == plans[1]
    assert len(set(plans)) > 2


def test_the_probe_trains_nothing_but_the_head(problem):
    plans = baseline_plans(problem, 0)
    assert list(plans) == ["probe", "uniform", "random"]
    assert plans["probe"] == Plan()
    assert all(problem.fits(plan) for plan in plans.values())


def test_a_space_without_low_rank_has_no_uniform_baseline(caplog):
    candidates = {"only": {Choice.of("scale"): Cost(5, 5, 20)}}
    plans = baseline_plans(Problem.of(candidates, Budget(10, 100), methods=UNIFORM), 0)
    assert list(plans) == ["probe", "random"]
    assert "no low-rank choice" in caplog.text


# rates


def test_three_rates_are_the_lowest_the_middle_and_the_highest(grids):
    plan = Plan({"top": Choice.of("lowrank", rank=1), "stem": Choice.of("scale")})
    rates = three_rates(grids, plan, 0.02)
    assert [r["lr:lowrank"] for r in rates] == [0.003, 0.01, 0.03]
    assert {r["lr:scale"] for r in rates} == {0.01, 0.1}
    assert {r["lr:head"] for r in rates} == {0.02}
    assert all("lr:subtune" not in r and r["weight_decay"] == 0.0 for r in rates)


def test_rates_that_are_equal_are_run_once(grids):
    one = {**grids, "lr:head": (0.01,)}
    assert three_rates(one, Plan(), None) == [{"lr:head": 0.01, "weight_decay": 0.0}]


# running


def test_a_baseline_is_the_best_on_validation_of_its_rates(driving):
    engine = TableEngine()
    with driving() as driver:
        run_baselines(driver, InlineBackend(engine), measured)
        stored = driver.attributes("reference")
    grids, plan = driver.options.grids, uniform_placement(driver.problem)
    head = stored["probe"]["hyperparameters"]["lr:head"]
    jobs = [Job("", plan, rates, seed=0) for rates in three_rates(grids, plan, head)]
    best = max(jobs, key=lambda job: looked_up(job, engine.steps))
    assert stored["uniform"]["hyperparameters"] == best.hyperparameters
    assert stored["uniform"]["value"] == looked_up(best, engine.steps)
    assert len({looked_up(job, engine.steps) for job in jobs}) == 3


def test_a_record_of_a_baseline_has_plan_cost_test_and_seconds(driving):
    with driving() as driver:
        run_baselines(driver, InlineBackend(TableEngine()), measured)
        stored, problem = driver.attributes("reference"), driver.problem
    assert stored.keys() == {"probe", "uniform", "random"}
    for record in stored.values():
        plan = Plan.from_json(record["plan"])
        assert record["cost"]["parameters"] == problem.cost(plan).parameters
        assert record["fits"] is True
        assert record["test"]["accuracy"] > 0
        assert record["seconds"] >= 0
    assert driver.trials == [], "baselines are no trials"


def test_what_is_recorded_is_not_run_again(driving):
    """The driver ends during the random placement; the next one runs only that."""

    class Died(BaseException):
        pass

    def dying(job):
        if "random" in job.name:
            raise Died
        yield from engine(job)

    engine, second = TableEngine(), TableEngine()
    with pytest.raises(Died), driving() as driver:
        run_baselines(driver, InlineBackend(dying), measured)
    with driving() as driver:
        run_baselines(driver, InlineBackend(second), measured)
    assert {name.split()[1] for name in engine.names} == {"probe", "uniform"}
    assert {name.split()[1] for name in second.names} == {"random"}
    assert len(driver.attributes("reference")) == 3


def test_a_rate_that_fails_leaves_the_others(driving, grids):
    plan = Plan({"stem": Choice.of("lowrank", rank=1)})
    jobs = [Job(f"try {i}", plan, rates, 0) for i, rates in enumerate(three_rates(grids, plan, 1))]
    best = max(jobs, key=lambda job: looked_up(job, 4))
    with driving() as driver:
        chosen = best_job(jobs, InlineBackend(TableEngine(fails=(best.name,))), driver)
    assert chosen.job is not best
    assert chosen.last.value == max(looked_up(job, 4) for job in jobs if job is not best)
    assert chosen.curve == tuple(looked_up(chosen.job, step) for step in range(1, 5))


def test_a_baseline_that_fails_with_every_rate_names_the_reason(driving):
    jobs = [Job(f"try {i}", Plan(), {}, 0) for i in range(2)]
    engine = TableEngine(fails=("try 0", "try 1"))
    reason = "try 0 failed with every learning rate: try 0 cannot be"
    with driving() as driver, pytest.raises(TrialError, match=reason):
        best_job(jobs, InlineBackend(engine), driver)


def test_a_baseline_scored_by_folds_is_delivered_from_all_of_them(driving):
    """Its own job delivers no file; it is trained once more on the whole."""

    class ByFolds(TableEngine):
        def progress(self, job: Job, step: int) -> Progress:
            progress = super().progress(job, step)
            artifact = progress.artifact if job.whole else None
            return Progress(step, progress.value, progress.metrics, b"", artifact)

    delivered = []
    with driving() as driver:
        run_baselines(
            driver, InlineBackend(ByFolds()), lambda c: delivered.append(c) or measured(c)
        )
    assert [content.split(b":")[0].split()[-1] for content in delivered] == [b"whole"] * 3


# interrupted


class Died(BaseException):
    """The driver ends."""


def dying_after(engine: TableEngine, name: str, step: int):
    """The engine, whose driver ends after a job has reported a step."""

    def run(job: Job):
        for progress in engine(job):
            yield progress
            if (job.name, progress.step) == (name, step):
                raise Died

    return run


def test_an_interrupted_baseline_continues_from_its_checkpoint(driving, folder, new_run):
    first, second = TableEngine(), TableEngine()
    with driving(at=new_run("whole")) as driver:
        run_baselines(driver, InlineBackend(TableEngine()), measured)
        expected = {name: one.curve for name, one in driver.baselines.items()}
    with pytest.raises(Died), driving() as driver:
        run_baselines(driver, InlineBackend(dying_after(first, "baseline uniform 1", 2)), measured)
    assert (folder.path / "jobs" / "baseline-uniform-1.checkpoint").is_file()
    with driving() as driver:
        run_baselines(driver, InlineBackend(second), measured)
        assert {name: one.curve for name, one in driver.baselines.items()} == expected
    steps = {name: step for name, _, step in second.calls if "uniform" in name}
    assert steps == {"baseline uniform 0": 4, "baseline uniform 1": 2, "baseline uniform 2": 1}
    assert not (folder.path / "jobs").exists()


class Lossy(InlineBackend):
    """Its worker dies after two steps of a job, `deaths` times."""

    def __init__(self, engine: TableEngine, deaths: int) -> None:
        super().__init__(engine)
        self.deaths = deaths

    def run(self, source: Source) -> None:
        while self.deaths and (job := source.next_job()) is not None:
            for progress in islice(self.engine(job), 2):
                source.report(job, progress)
            self.deaths -= 1
            source.lost(job)
        super().run(source)


def test_a_baseline_is_started_as_often_as_retries_allow(driving):
    engine, job = TableEngine(), Job("try", Plan(), {}, 0)
    with driving(attempts=4) as driver:
        assert best_job([job], Lossy(engine, deaths=3), driver).last.step == 4
    assert engine.calls == [("try", 0, 1), ("try", 1, 2), ("try", 2, 3), ("try", 3, 4)]
    with driving(attempts=2) as driver, pytest.raises(TrialError, match="its worker died 2 times"):
        best_job([job], Lossy(TableEngine(), deaths=2), driver)
