"""The driver with the inline backend: what is recorded, answered, kept, and gone on with."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.trial import TrialState

from autotune.errors import RunError
from autotune.problem.budget import Budget, Cost
from autotune.problem.job import ATTEMPTS, Decision, Failure, Job, Progress
from autotune.problem.plan import Choice, Plan
from autotune.problem.problem import Problem
from autotune.problem.recipes import uniform_placement
from autotune.study.backends.inline import InlineBackend
from autotune.study.checkpoint_file import read_checkpoint
from autotune.study.driver import KEPT, REPEATS_IN_A_ROW, Driver, create
from autotune.study.pruners import FEWEST_TRIALS
from autotune.study.reader import Records
from autotune.study.run_folder import RunFolder
from autotune.study.strategies.base import plan_of
from autotune.study.trial_record import TrialRecord, problem_from_json, problem_to_json

from .table_engine import STEPS, TableEngine, looked_up


class Died(BaseException):
    """The end of a process, which nothing catches."""


def run(driver: Driver, engine: Any) -> list[TrialRecord]:
    InlineBackend(engine).run(driver)
    return driver.trials


def seen(trials: list[TrialRecord]) -> list[tuple[Any, ...]]:
    """All of a trial but its seconds."""
    return [
        (t.number, t.state, str(t.plan), dict(t.hyperparameters), t.value, t.curve, t.repeat_of)
        for t in trials
    ]


# what is recorded


def test_runs_as_many_trials_as_asked(driving):
    with driving(trials=7) as driver:
        trials = run(driver, TableEngine())
    assert [t.number for t in trials] == list(range(7))
    assert all(t.is_complete and driver.problem.fits(t.plan) for t in trials)


def test_a_record_holds_value_curve_metrics_and_seconds(driving):
    with driving(trials=1) as driver:
        began = time.monotonic()
        (trial,) = run(driver, TableEngine())
    job = Job("", trial.plan, trial.hyperparameters, seed=0)
    assert trial.curve == tuple(looked_up(job, step) for step in range(1, STEPS + 1))
    assert trial.value == trial.metrics["accuracy"] == trial.curve[-1]
    assert 0 < trial.seconds <= time.monotonic() - began
    assert not trial.error


def test_the_study_is_an_ordinary_optuna_study(driving, folder):
    with driving(trials=3) as driver:
        run(driver, TableEngine())
    study = optuna.load_study(study_name="autotune", storage=f"sqlite:///{folder.database}")
    plans = [plan_of(driver.problem, trial.params) for trial in study.trials]
    assert plans == [trial.plan for trial in driver.trials]
    assert study.best_value == driver.ranked()[0].value
    assert all("proposed" in trial.user_attrs["record"] for trial in study.trials)


def test_a_failed_trial_keeps_type_and_text_and_the_study_continues(driving):
    with driving(trials=4) as driver:
        trials = run(driver, TableEngine(fails=("trial 1",)))
    assert [t.state_name for t in trials] == ["complete", "failed", "complete", "complete"]
    assert trials[1].error == "ValueError: trial 1 cannot be"
    assert trials[1].value is None
    assert len(trials[1].curve) == 1


def test_out_of_memory_is_reported_from_other_failures(driving):
    with driving(trials=1) as driver:
        job = driver.next_job()
        driver.fail(job, Failure("OutOfMemoryError", "2 GiB more than there are"))
    assert driver.trials[0].state is TrialState.FAIL
    assert driver.trials[0].state_name == "out of memory"


def test_hopeless_trials_are_pruned_at_the_first_rung(driving):
    class Falling(TableEngine):
        def progress(self, job: Job, step: int) -> Progress:
            return Progress(step, 1 / (job.number + 1), {"accuracy": 0.0}, b"1", b"delta")

    with driving(trials=8, pruner="halving") as driver:
        trials = run(driver, Falling())
    few, many = trials[: FEWEST_TRIALS - 1], trials[FEWEST_TRIALS - 1 :]
    assert {t.state_name for t in few} == {"complete"}, "too few to be compared with"
    assert {t.state_name for t in many} == {"pruned"}
    assert all(t.value is None and len(t.curve) == 1 for t in many)


def test_few_trials_race_to_the_middle_of_their_steps(driving):
    class Rising(TableEngine):
        def progress(self, job: Job, step: int) -> Progress:
            value = step / 10 - (job.number == 1)
            return Progress(step, value, {"accuracy": value}, b"1", b"delta")

    with driving(trials=3, pruner="auto", strategy="policy") as driver:
        first, behind, level = run(driver, Rising())
    assert (first.state_name, behind.state_name, level.state_name) == (
        "complete",
        "pruned",
        "complete",
    )
    assert len(behind.curve) == -(-driver.options.steps // 2)


def test_pruning_is_decided_alike_when_it_is_asked_twice(driving):
    """A driver that dies between a decision and its end asks again."""
    with driving(trials=8, pruner="halving") as driver:
        while (job := driver.next_job()) is not None:
            for progress in TableEngine()(job):
                first, second = driver.report(job, progress), driver.report(job, progress)
                assert first is second
                if first is Decision.STOP:
                    break
            driver.finish(job)
    states = {trial.state_name for trial in driver.trials}
    assert states == {"complete", "pruned"}


def test_a_trial_that_went_on_is_not_ended_at_an_earlier_epoch_when_it_is_resumed(driving):
    """Its checkpoint is of that epoch; what is recorded of later ones decides nothing there."""
    with driving(trials=8, pruner="halving") as driver:
        while (job := driver.next_job()) is not None:
            seen_progress: list[Any] = []
            for progress in TableEngine()(job):
                seen_progress.append((progress, driver.report(job, progress)))
                if seen_progress[-1][1] is Decision.STOP:
                    break
            for progress, _ in seen_progress[:-1]:
                assert driver.report(job, progress) is Decision.CONTINUE
            driver.report(job, seen_progress[-1][0])
            driver.finish(job)
    assert {trial.state_name for trial in driver.trials} == {"complete", "pruned"}


def test_no_trial_starts_after_the_deadline(driving, folder, grids):
    with driving(trials=5) as driver:
        driver.deadline = time.time() - 1
        assert run(driver, TableEngine()) == []


# reports


def test_an_epoch_is_not_recorded_twice(driving, folder):
    with driving(trials=1) as driver:
        job = driver.next_job()
        driver.report(job, Progress(1, 0.25, {}, b"first"))
        driver.report(job, Progress(1, 0.75, {}, b"second"))
        assert driver.trials[0].curve == (0.25,)
        assert read_checkpoint(folder.checkpoint(0), "it") == ({}, b"first")


def test_a_late_report_of_an_older_attempt_is_dropped(driving, folder):
    with driving(trials=1) as driver:
        old = driver.next_job()
        driver.report(old, Progress(1, 0.25, {}, b"first"))
        driver.lost(old)
        new = driver.next_job()
        assert (new.number, new.attempt, new.checkpoint) == (old.number, 1, b"first")
        assert driver.report(old, Progress(2, 0.75, {}, b"late")) is Decision.STOP
        driver.finish(old)
        driver.fail(old, Failure("ValueError", "late"))
        assert driver.trials[0].curve == (0.25,)
        assert read_checkpoint(folder.checkpoint(0), "it") == ({}, b"first")


def test_a_trial_whose_worker_always_dies_fails_in_the_end(driving):
    with driving(trials=1) as driver:
        attempts = 0
        while (job := driver.next_job()) is not None:
            driver.lost(job)
            attempts += 1
    assert attempts == ATTEMPTS
    assert driver.trials[0].error.startswith("WorkerError: its worker died")


# answers from the record


def test_an_equal_trial_is_answered_from_the_record(driving):
    engine = TableEngine()
    with driving(trials=1) as driver:
        (first,) = run(driver, engine)
        twin = _stored_twice(driver, first)
        answered = run(driver, engine)[twin]
    assert answered.repeat_of == 0
    assert (answered.value, answered.curve, answered.metrics) == (
        first.value,
        first.curve,
        first.metrics,
    )
    assert engine.names == ["trial 0"]
    assert [t.number for t in driver.ranked()] == [0]


def _stored_twice(driver: Driver, first: TrialRecord, **changes: Any) -> int:
    """An unfinished trial with the parameters of `first`, some of them changed; its number."""
    params = {**driver.study.trials[first.number].params, **changes}
    space = driver.space
    started = optuna.trial.create_trial(
        state=TrialState.RUNNING, params=params, distributions=space
    )
    driver.study.add_trial(started)
    driver.goal = driver._asked_for = len(driver.study.trials)
    driver._interrupted.append(driver.goal - 1)
    return driver.goal - 1


@pytest.mark.slow
def test_rates_of_methods_that_are_not_used_do_not_tell_trials_apart(driving):
    engine = TableEngine()
    with driving(trials=12) as driver:
        first = next(t for t in run(driver, engine) if "subtune" not in t.plan.methods())
        rate = first.hyperparameters["lr:subtune"]
        other = 0.001 if rate == 0.01 else 0.01
        twin = _stored_twice(driver, first, **{"lr:subtune": other})
        assert run(driver, engine)[twin].repeat_of == first.number


def test_rates_of_used_methods_tell_trials_apart(driving):
    engine = TableEngine()
    with driving(trials=1) as driver:
        (first,) = run(driver, engine)
        other = 0.01 if first.hyperparameters["lr:head"] == 0.03 else 0.03
        twin = _stored_twice(driver, first, **{"lr:head": other})
        assert run(driver, engine)[twin].repeat_of is None
    assert engine.names == ["trial 0", f"trial {twin}"]


def test_a_failed_trial_answers_an_equal_one_with_its_error(driving):
    engine = TableEngine(fails=("trial 0",))
    with driving(trials=1) as driver:
        (first,) = run(driver, engine)
        twin = _stored_twice(driver, first)
        answered = run(driver, engine)[twin]
    assert (answered.state_name, answered.error) == ("failed", first.error)
    assert engine.names == ["trial 0"]


def test_after_three_repeats_in_a_row_a_random_plan_is_proposed(driving):
    with driving(trials=1, strategy="tpe") as driver:
        (first,) = run(driver, TableEngine())
        for _ in range(REPEATS_IN_A_ROW):
            assert "TPE" in type(driver._sampler(len(driver.trials)).make(0)).__name__
            run(driver, TableEngine()) if _stored_twice(driver, first) else None
        sampler = driver._sampler(len(driver.trials)).make(0)
        assert isinstance(sampler, optuna.samplers.RandomSampler)
    assert sum(t.repeat_of is not None for t in driver.trials) == REPEATS_IN_A_ROW


def test_a_tiny_problem_ends_with_as_many_trials_as_asked(new_run, grids, driving, tmp_path):
    """Most proposals are repeats; each counts, and costs nothing."""
    candidates = {"only": {Choice.of("scale"): Cost(5, 5, 20)}}
    tiny, engine = RunFolder(tmp_path / "tiny"), TableEngine()
    create(tiny, None, Problem.of(candidates, Budget(10, 100)), {})
    few = {name: values[:1] for name, values in grids.items()}
    with driving(at=tiny, trials=9, strategy="tpe", grids=few) as driver:
        trials = run(driver, engine)
    assert len(trials) == 9
    assert len(engine.calls) == len({t.plan.digest for t in trials}) == 2
    assert sum(t.repeat_of is not None for t in trials) == 7


# files


def kept(folder: RunFolder) -> dict[int, list[str]]:
    root = folder.path / "trials"
    return {int(d.name): sorted(f.name for f in d.iterdir()) for d in sorted(root.iterdir())}


def test_only_the_best_trials_keep_their_files(driving, folder):
    with driving(trials=9) as driver:
        run(driver, TableEngine(fails=("trial 2",)))
        best = sorted(trial.number for trial in driver.ranked()[:KEPT])
    assert kept(folder) == {number: ["delta.safetensors"] for number in best}
    assert folder.delta(best[0]).read_bytes() == f"trial {best[0]}:0".encode()


def test_all_trials_keep_their_files_when_asked(driving, folder):
    with driving(trials=7, keep="all") as driver:
        run(driver, TableEngine(fails=("trial 2",)))
    assert list(kept(folder)) == [0, 1, 3, 4, 5, 6]


def test_a_running_trial_has_a_checkpoint_that_goes_when_it_ends(driving, folder):
    with driving(trials=1) as driver:
        job = driver.next_job()
        *_, last = (driver.report(job, progress) for progress in TableEngine()(job))
        assert last is Decision.CONTINUE
        assert kept(folder) == {0: ["trial.checkpoint"]}
        driver.finish(job)
    assert kept(folder) == {0: ["delta.safetensors"]}


# reading


def test_a_problem_reads_back_as_it_was_written(problem):
    assert problem_from_json(problem_to_json(problem)) == problem


def test_a_problem_of_a_version_without_facts_of_methods_keeps_its_meaning():
    stored = problem_to_json(
        Problem.of(
            {
                "unit": {Choice.of("lowrank", rank=2): Cost(2, 2, 8)},
                "network": {Choice.of("bypass", width=1): Cost(3, 3, 12)},
            },
            Budget(10, 100),
        )
    )
    del stored["methods"]
    problem = problem_from_json(stored)
    assert [(unit, choice.label) for unit, choice in problem.alone()] == [("network", "bypass-1")]
    assert str(uniform_placement(problem)) == "unit=lowrank-2"


def test_a_storage_holds_one_study(folder, problem):
    with pytest.raises(RunError, match="has one already"):
        create(folder, None, problem, {})


def test_a_storage_that_cannot_be_reached_says_so(folder, problem):
    with pytest.raises(RunError, match="must be reachable"):
        create(folder, "sqlite:////no/such/folder/study.db", problem, {})


def test_ranking_prefers_the_cheaper_of_equals(driving):
    class Equal(TableEngine):
        def progress(self, job: Job, step: int) -> Progress:
            return Progress(step, 0.5, {}, b"1", b"delta")

    with driving(trials=6) as driver:
        run(driver, Equal())
        costs = [trial.cost.parameters for trial in driver.ranked()]
    assert costs == sorted(costs)
    assert len(costs) > 2


# drivers that die


def uninterrupted(driving: Any, at: RunFolder, **settings: Any) -> list[tuple[Any, ...]]:
    with driving(at=at, **settings) as driver:
        return seen(run(driver, TableEngine()))


class DyingEngine(TableEngine):
    """Ends its process before the n-th progress."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.left = n

    def progress(self, job: Job, step: int) -> Progress:
        self.left -= 1
        if self.left < 0:
            raise Died
        return super().progress(job, step)


@pytest.mark.slow
def test_an_engine_that_dies_at_any_step_is_gone_on_with(driving, new_run):
    how = {"trials": 3, "strategy": "random", "pruner": "halving"}
    whole = uninterrupted(driving, new_run("whole"), **how)
    for n in range(sum(len(trial[5]) for trial in whole)):
        at, dying, second = new_run(f"died-{n}"), DyingEngine(n), TableEngine()
        with pytest.raises(Died), driving(at=at, **how) as driver:
            run(driver, dying)
        done = {f"trial {t.number}" for t in Records(at, None).trials if t.state.is_finished()}
        with driving(at=at, **how) as driver:
            assert seen(run(driver, second)) == whole
        assert not done & set(second.names)


def test_a_trial_resumes_from_its_last_checkpoint(driving):
    dying, second = DyingEngine(3), TableEngine()
    with pytest.raises(Died), driving(trials=1) as driver:
        run(driver, dying)
    with driving(trials=1) as driver:
        (trial,) = run(driver, second)
    assert second.calls == [("trial 0", 1, 3)]
    assert len(trial.curve) == STEPS


@contextmanager
def dying(at: int, *, after: bool = False) -> Iterator[None]:
    """The process ends at its n-th write to a database: before it, or as soon as it is done."""
    left = at

    def executing(_: Any, __: Any, statement: str, *___: Any) -> None:
        nonlocal left
        if statement.startswith(("INSERT", "UPDATE", "DELETE")):
            left -= 1
            if left == 0 and not after:
                raise Died

    def beginning(_: Any) -> None:
        if left <= 0 and after:
            raise Died

    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", executing)
    sqlalchemy.event.listen(sqlalchemy.Engine, "begin", beginning)
    try:
        yield
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", executing)
        sqlalchemy.event.remove(sqlalchemy.Engine, "begin", beginning)


HOW = {"trials": 3, "strategy": "tpe", "pruner": "halving"}
TWO = {**HOW, "trials": 2}


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_driver_that_dies_at_any_write_is_gone_on_with(driving, new_run, after):
    """Every third write, before it in one run of this test and after it in the other."""
    whole, n, died = uninterrupted(driving, new_run("whole"), **TWO), 1 + after, True
    while died:
        died, at, second = False, new_run(f"died-{n}"), TableEngine()
        try:
            with dying(n, after=after):
                uninterrupted(driving, at, **TWO)
        except Died:
            died = True
        done = {f"trial {t.number}" for t in Records(at, None).trials if t.state.is_finished()}
        with driving(at=at, **TWO) as driver:
            assert seen(run(driver, second)) == whole, f"died at write {n}"
        assert not done & set(second.names), f"died at write {n}"
        assert not list(at.path.rglob("trial.checkpoint")), f"died at write {n}"
        n += 3
    assert n > 30, "there are as many writes, and one was the last"


@pytest.mark.slow
@pytest.mark.parametrize("every", [9, 14, 22])
def test_a_driver_that_dies_again_and_again_comes_to_the_same_end(driving, new_run, every):
    whole = uninterrupted(driving, new_run("whole"), **HOW)
    at, sittings, trials = new_run("died"), 0, []
    while not trials and sittings < 60:
        sittings += 1
        with suppress(Died), dying(every):
            trials = uninterrupted(driving, at, **HOW)
    assert trials == whole
    assert sittings > 2


def test_an_empty_plan_is_a_plan_like_others(driving, problem):
    with driving(trials=1) as driver:
        (first,) = run(driver, TableEngine())
        frozen = {f"unit:{unit}": "frozen" for unit in problem.units}
        number = _stored_twice(driver, first, **frozen)
        trial = run(driver, TableEngine())[number]
    assert trial.plan == Plan()
    assert trial.is_complete
    assert trial.cost.parameters == 0
