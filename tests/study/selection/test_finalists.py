"""The end of a search: three, two, one; then `best/`, and the one look at the test part."""

from __future__ import annotations

import json
from dataclasses import replace
from statistics import mean, stdev
from typing import Any

import pytest

from autotune.errors import TrialError
from autotune.problem.grids import three_rates
from autotune.problem.job import Job, Progress
from autotune.problem.plan import Plan
from autotune.study.backends.inline import InlineBackend
from autotune.study.driver import Driver
from autotune.study.selection.baselines import baseline_plans
from autotune.study.selection.finalists import best_plans, run_finalists
from autotune.study.stages import Baseline
from study.table_engine import TableEngine


class Graded(TableEngine):
    """Later trials are better; a repeat with another seed gives what `repeats` says of it."""

    def __init__(self, repeats: dict[str, float] | None = None) -> None:
        super().__init__()
        self.repeats = repeats or {}

    def progress(self, job: Job, step: int) -> Progress:
        usual = PROBE.value if job.name.startswith("linear probe") else job.number / 100
        value = self.repeats.get(job.name, usual)
        artifact = f"{job.name}:{job.seed}".encode()
        return Progress(step, value, {"accuracy": value}, b"1", artifact)


class Died(BaseException):
    pass


PROBE = Baseline(
    plan=Plan(),
    hyperparameters={"lr:head": 0.01, "weight_decay": 0.0},
    value=0.001,
    test={"accuracy": 0.5, "n": 10},
    metrics={"accuracy": 0.001},
)


def ended(driver: Driver, engine: Any, *, probe: float = 0.001, tests: Any = None) -> Any:
    """The record of the end; `tests` collects what was looked at on the test part."""
    looked = [] if tests is None else tests

    def test(content: bytes) -> dict[str, float]:
        looked.append(content)
        return {"accuracy": len(looked) / 10, "n": 10}

    backend = InlineBackend(engine)
    driver.record("reference:probe", replace(PROBE, value=probe))
    backend.run(driver)
    run_finalists(driver, backend, test)
    return driver.attribute("stage:final")


def repeats_of(engine: TableEngine) -> list[str]:
    return [name for name in engine.names if name.startswith("repeat")]


def test_three_two_one_over_the_seeds(driving):
    """Trials 5 and 4 run again with seed + 1, the better of them with seed + 2."""
    engine = Graded({"repeat 5 seed 8": 0.01, "repeat 4 seed 8": 0.06, "repeat 4 seed 9": 0.05})
    with driving(trials=6, seed=7) as driver:
        final = ended(driver, engine)
    assert repeats_of(engine) == ["repeat 5 seed 8", "repeat 4 seed 8", "repeat 4 seed 9"]
    assert final["number"] == 4
    assert final["values"]["seeds"] == {"7": 0.04, "8": 0.06, "9": 0.05}
    assert final["values"]["mean"] == pytest.approx(0.05)
    assert final["values"]["std"] == pytest.approx(stdev([0.04, 0.06, 0.05]))
    assert final["value"] == 0.04


def test_ranked_among_those_with_equally_many_seeds(driving):
    """A poor third seed does not bring the second finalist back."""
    engine = Graded({"repeat 5 seed 1": 0.05, "repeat 4 seed 1": 0.04, "repeat 5 seed 2": 0.02})
    with driving(trials=6) as driver:
        final = ended(driver, engine)
    assert final["number"] == 5
    assert len(final["values"]["seeds"]) == 3


def test_best_is_the_run_with_the_study_s_seed(driving, folder):
    tests: list[bytes] = []
    with driving(trials=6) as driver:
        final = ended(driver, Graded({"repeat 5 seed 1": 0.9, "repeat 5 seed 2": 0.9}), tests=tests)
    assert folder.best.read_bytes() == b"trial 5:0"
    best = json.loads((folder.path / "best" / "plan.json").read_text())
    assert best == json.loads(final["plan"])
    assert tests == [b"trial 5:0", b"repeat 5 seed 1:1", b"repeat 5 seed 2:2"]
    assert final["test"]["accuracy"] == final["tests"]["seeds"]["0"] == 0.1
    assert final["tests"]["mean"] == pytest.approx(mean([0.1, 0.2, 0.3]))


def test_the_test_part_selects_nothing(driving):
    """It is looked at for the winner's files alone, after the last training."""
    order = []

    class Noting(Graded):
        def __call__(self, job):
            order.append("train")
            return super().__call__(job)

    with driving(trials=4) as driver:
        driver.record("reference:probe", PROBE)
        backend = InlineBackend(Noting())
        backend.run(driver)
        run_finalists(driver, backend, lambda c: order.append("test") or {"accuracy": 1, "n": 1})
    assert order == ["train"] * 9 + ["test"] * 3, "4 trials, 3 repeats, 2 probes"


def test_finalists_are_plans_each_by_its_best_trial(driving):
    with driving(trials=9) as driver:
        InlineBackend(Graded()).run(driver)
        ranked = driver.ranked()
    best = best_plans([*ranked, *ranked], 3)
    assert best == best_plans(ranked, 3)
    assert len({record.plan.digest for record in best}) == 3
    assert best[0] == ranked[0]


@pytest.mark.parametrize(("probe", "empty"), [(0.04, True), (0.037, False)])
def test_the_answer_is_the_empty_plan_when_the_probe_is_not_beaten(driving, folder, probe, empty):
    """The winner's mean over its seeds must be larger than the probe's over the same seeds."""
    repeats = {"repeat 5 seed 1": 0.045, "repeat 5 seed 2": 0.025}
    probes = {"linear probe seed 1": 0.041, "linear probe seed 2": 0.04}
    engine = Graded({**repeats, **probes})
    with driving(trials=6) as driver:
        final = ended(driver, engine, probe=probe)
    assert final["values"]["mean"] == pytest.approx(0.04) if not empty else final["empty"]
    assert (final["number"] is None) == empty == (Plan.from_json(final["plan"]) == Plan())
    assert folder.best.read_bytes() == (b"empty plan:0" if empty else b"trial 5:0")
    if empty:
        assert final["test"] == {"accuracy": 0.1, "n": 10}, "of the delivered file"
        assert final["hyperparameters"] == PROBE.hyperparameters


def test_what_the_winner_is_compared_with(driving):
    """Pair by pair over the seeds that both have; two seeds tell nothing apart."""
    repeats = {"repeat 5 seed 1": 0.05, "repeat 5 seed 2": 0.06, "repeat 4 seed 1": 0.03}
    with driving(trials=6) as driver:
        final = ended(driver, Graded(repeats), probe=0.02)
        costs = {record.number: record.cost.parameters for record in driver.trials}
    rival, probe = final["against"]
    assert (rival["name"], rival["pairs"], rival["distinguishable"]) == ("trial 4", 2, False)
    assert rival["mean"] == pytest.approx(((0.05 - 0.04) + (0.05 - 0.03)) / 2)
    assert rival["cost"]["parameters"] == costs[4]
    assert (probe["name"], probe["pairs"], probe["cost"]["parameters"]) == ("probe", 3, 0)
    differences = [0.05 - 0.02, 0.05 - 0.001, 0.06 - 0.001]
    assert probe["mean"] == pytest.approx(mean(differences))
    assert probe["half"] == pytest.approx(4.302653 * stdev(differences) / 3**0.5, rel=1e-6)
    assert probe["distinguishable"]


def uniform(driver: Driver, value: float, *, fits: bool = True) -> Baseline:
    """The record of uniform low rank."""
    plan = baseline_plans(driver.problem, 0)["uniform"]
    rates = three_rates(driver.options.grids, plan, None)[0]
    return Baseline(
        plan=plan,
        hyperparameters=rates,
        value=value,
        test={"accuracy": value, "n": 10},
        metrics={"accuracy": value},
        curve=(0.0, 0.0, 0.0, value),
        cost=driver.problem.cost(plan),
        fits=fits,
        seconds=5.0,
    )


def test_a_baseline_that_no_other_plan_beats_is_the_answer(driving, folder):
    """As a trial of its own, over as many seeds, beside those that were asked for."""
    repeats = {"repeat 6 seed 1": 0.08, "repeat 6 seed 2": 0.07, "trial 6": 0.06}
    engine = Graded({**repeats, "repeat 5 seed 1": 0.05})
    with driving(trials=6) as driver:
        driver.record("reference:uniform", known := uniform(driver, 0.06))
        final = ended(driver, engine)
        admitted = driver.trials[6]
        assert not driver.has_more()
    assert (final["number"], final["reference"]) == (6, "uniform")
    assert final["plan"] == known.plan.to_json() and final["values"]["mean"] == pytest.approx(0.07)
    assert (admitted.value, admitted.curve) == (0.06, (0.0, 0.0, 0.0, 0.06))
    assert admitted.seconds == 5.0
    assert final["against"][0]["name"] == "trial 5"
    assert folder.best.read_bytes() == b"repeat 6 seed 0:0", "trained again for its file"
    with driving(trials=8) as driver:
        InlineBackend(Graded()).run(driver)
        run_finalists(driver, InlineBackend(Graded()), lambda content: {"accuracy": 1, "n": 1})
        numbers = [trial.number for trial in driver.trials if not trial.baseline]
    assert numbers == [0, 1, 2, 3, 4, 5, 7, 8], "it is admitted once"


@pytest.mark.parametrize(("value", "fits"), [(0.04, True), (0.9, False)])
def test_a_baseline_that_is_no_better_or_over_the_budget_stays_one(driving, value, fits):
    with driving(trials=6) as driver:
        driver.record("reference:uniform", uniform(driver, value, fits=fits))
        final = ended(driver, Graded({"repeat 5 seed 1": 0.06, "repeat 4 seed 1": 0.05}))
        assert len(driver.trials) == 6
    assert (final["number"], final["reference"]) == (5, "")


def test_the_answer_is_the_empty_plan_when_every_trial_failed(driving):
    with driving(trials=3) as driver:
        final = ended(driver, TableEngine(fails=("trial 0", "trial 1", "trial 2")))
    assert final["empty"]
    assert final["cost"]["parameters"] == 0


def test_no_trial_and_no_probe_is_an_error(driving):
    engine = TableEngine(fails=("trial 0",))
    with driving(trials=1) as driver:
        InlineBackend(engine).run(driver)
        with pytest.raises(TrialError, match="No trial was completed"):
            run_finalists(driver, InlineBackend(engine), lambda content: {})


def test_one_trial_alone_wins_over_its_seeds(driving):
    engine = Graded({"repeat 0 seed 1": 0.5, "repeat 0 seed 2": 0.5})
    with driving(trials=1) as driver:
        final = ended(driver, engine)
    assert final["number"] == 0
    assert repeats_of(engine) == ["repeat 0 seed 1", "repeat 0 seed 2"]


@pytest.mark.parametrize("at", [0, *(pytest.param(at, marks=pytest.mark.slow) for at in (1, 2))])
def test_interrupted_between_repeats_comes_to_the_same_end(driving, new_run, at):
    def ends(name: str, engine: Any) -> Any:
        with driving(at=new_run(name) if isinstance(name, str) else name, trials=5) as driver:
            return ended(driver, engine)

    class Dying(TableEngine):
        def __call__(self, job):
            if job.name.startswith("repeat") and len(repeats_of(self)) == at:
                raise Died
            return super().__call__(job)

    whole, first, second, died = TableEngine(), Dying(), TableEngine(), new_run("died")
    expected = ends("whole", whole)
    with pytest.raises(Died):
        ends(died, first)
    assert ends(died, second) == expected
    assert repeats_of(first) + repeats_of(second) == repeats_of(whole)


def test_interrupted_before_the_record_of_the_end_is_gone_on_with(driving, folder):
    """`best/` may be written already; everything but the record is done again, without training."""

    def dies(content: bytes) -> dict[str, float]:
        raise Died

    backend, second = InlineBackend(TableEngine()), TableEngine()
    with driving(trials=5) as driver:
        backend.run(driver)
        with pytest.raises(Died):
            run_finalists(driver, backend, dies)
    with driving(trials=5) as driver:
        final = ended(driver, second, probe=-1)
    assert repeats_of(second) == []
    assert folder.best.read_bytes() == f"trial {final['number']}:0".encode()


def test_a_delta_that_was_not_kept_is_trained_again(driving, folder):
    second = TableEngine()
    with driving(trials=5) as driver:
        final = ended(driver, TableEngine(), probe=-1)
    folder.delta(final["number"], 1).unlink()
    with driving(trials=5) as driver:
        assert ended(driver, second, probe=-1)["values"] == final["values"]
    assert second.names == [f"repeat {final['number']} seed 1"]
