"""`compare`: an ended search beside what a user would have done without it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch

import autotune
from autotune.errors import ConfigError, RunError, TaskError
from autotune.problem.budget import Cost
from autotune.problem.job import Job
from autotune.problem.plan import Plan
from autotune.session.compare import Comparison
from autotune.study.backends.inline import InlineBackend
from autotune.study.selection import comparison
from autotune.study.selection.comparison import NAMES, ComparisonRow, recommended
from autotune.tasks.loading import PartFeed
from autotune.training.loop import Recipe, evaluate

pytestmark = pytest.mark.slow

QUICK = {"budget": "60%", "epochs": 2, "strategy": "random", "trials": 2, "bnstats": "off"}


@pytest.fixture(scope="module")
def options(new_tiny_network, tiny_task) -> dict[str, Any]:
    return {"backbone": new_tiny_network(), "task": tiny_task}


@pytest.fixture(scope="module")
def run(options, tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("compare") / "run"
    autotune.search(**options, **QUICK, out=str(folder))
    return folder


@pytest.fixture(scope="module")
def source(tiny_task, tmp_path_factory) -> str:
    """What the backbone's own head is asked for: three classes, too."""
    file = tmp_path_factory.mktemp("source") / "source.npz"
    parts = {"train": tiny_task.train, "val": tiny_task.val, "test": tiny_task.test}
    arrays = {f"x_{name}": part.inputs.numpy() for name, part in parts.items()}
    np.savez(file, **arrays, **{f"y_{name}": part.labels for name, part in parts.items()})
    return f"npz:{file}"


@pytest.fixture(scope="module")
def compared(run, options, source) -> Comparison:
    return autotune.compare(run, **options, source=source)


def row_of(compared: Comparison, name: str) -> ComparisonRow:
    return next(row for row in compared.rows if row.name == name)


def test_every_rival_has_every_seed(compared):
    assert [row.name for row in compared.rows] == list(NAMES)
    for row in compared.rows:
        assert [*row.tests] == [0, 1, 2], row.name
        assert [*row.values] == [(0, 0), (1, 0), (2, 0)], row.name
        assert row.validation == (mean(row.values.values()), stdev(row.values.values()))


def test_what_the_search_has_is_not_trained_again(run, compared):
    study = autotune.Study(run)
    answer = row_of(compared, "autotune")
    by_seed = {seed: value for (seed, _), value in answer.values.items()}
    assert study.final is not None
    if study.final.is_empty:
        assert answer.values[0, 0] == study.baselines["probe"].value
    else:
        assert (by_seed, answer.trainings) == (study.final.values.by_seed, 0)
    for name in ("probe", "uniform", "random"):
        row = row_of(compared, name)
        assert row.values[0, 0] == study.baselines[name].value
        assert row.trainings == 2, "the two other seeds"
    assert row_of(compared, "norms only").trainings == 5, "three rates, two seeds"


def test_costs_are_reported_also_beyond_the_budget(run, options, compared):
    study = autotune.Study(run)
    full, norms = row_of(compared, "full fine-tuning"), row_of(compared, "norms only")
    assert full.cost.parameters == study.problem.budget.total
    assert not full.fits
    assert norms.fits
    network = options["backbone"]
    norm_layers = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms.cost.parameters == sum(p.numel() for m in norm_layers for p in m.parameters())
    placements = [row_of(compared, name) for name in ("random", "random 2", "random 3", "last-k")]
    for row in placements:
        assert 0 < row.cost.parameters <= study.problem.budget.limit
    assert len({row.label for row in placements}) == 4


def test_random_search_has_the_compute_of_the_search(run, compared):
    """As many trials as would have taken its seconds, and then two more seeds."""
    study, row = autotune.Study(run), row_of(compared, "random search")
    trained = [trial.seconds for trial in study.trials if trial.repeat_of is None]
    assert study.training_seconds > sum(trained), "repeats of the finalists, too"
    assert row.trainings == max(1, round(study.training_seconds / mean(trained))) + 2


def test_nothing_is_run_twice(run, options, compared):
    with patch.object(comparison, "best_job", side_effect=AssertionError("trained again")):
        again = autotune.compare(run, **options)
    assert again.rows == compared.rows


def test_the_base_keeps_what_it_could(options, tiny_task, compared):
    """With the delta off the backbone's own task is what it was before, exactly."""
    test = PartFeed(tiny_task.test, None, torch.device("cpu"))
    before = evaluate(options["backbone"].eval(), test, Recipe())
    on_source = compared.source
    assert on_source is not None
    assert (on_source["off"], on_source["n"]) == (before["accuracy"], len(tiny_task.test))
    assert 0 <= on_source["on"] <= 1


def test_recommended_is_the_cheapest_that_cannot_be_told_apart():
    def row(name: str, cost: int, *values: float, fits: bool = True) -> ComparisonRow:
        by_seed = {(seed, 0): value for seed, value in enumerate(values)}
        return ComparisonRow(name, "", Cost(cost, cost, 4 * cost), fits, by_seed, {}, 0, 0.0)

    best = row("autotune", 900, 0.95, 0.94, 0.96)
    equal = row("norms only", 100, 0.94, 0.95, 0.95)
    worse = row("probe", 0, 0.80, 0.79, 0.81)
    dear = row("full fine-tuning", 9000, 0.99, 0.99, 0.99, fits=False)
    assert recommended([best, equal, worse, dear]) == equal
    assert recommended([best, worse, dear]) == best
    assert recommended([best, replace(worse, values=best.values)]).name == "probe"


def test_lp_ft_begins_with_the_probe_s_head(make_engine):
    """With a rate of zero everywhere it stays what the linear probe is."""
    engine, still = make_engine(), {"lr:head": 0.0, "weight_decay": 0.0}
    probe = Job("probe", Plan(), {"lr:head": 0.03, "weight_decay": 0.0}, 3)
    *_, expected = engine(probe)
    *_, lp_ft = engine(Job("lp-ft", Plan(), still, 3, head_rate=0.03))
    *_, fresh = engine(Job("fresh", Plan(), still, 3))
    assert lp_ft.value == expected.value
    assert fresh.value < expected.value


def test_an_interrupted_comparison_continues(options, compared, tmp_path):
    """Ctrl-C in the middle of a rival keeps what was run, and what follows is the same."""
    folder, only, begun = tmp_path / "run", ["probe", "norms only"], []
    autotune.search(**options, **QUICK, out=str(folder))
    run_jobs = InlineBackend.run

    def interrupted(self: Any, source: Any) -> None:
        begun.append(source)
        if len(begun) == 4:
            raise KeyboardInterrupt
        run_jobs(self, source)

    with (
        patch.object(InlineBackend, "run", interrupted),
        pytest.raises(autotune.AutotuneError, match=r"autotune compare .*run"),
    ):
        autotune.compare(folder, **options, only=only)
    before = [seed for row in autotune.Study(folder).comparison for seed, _ in row.values]
    again = autotune.compare(folder, **options, only=only)
    assert 3 < len(before) < sum(len(row.values) for row in again.rows) == 9
    for row in again.rows:
        assert row.values == row_of(compared, row.name).values


@pytest.mark.parametrize(
    ("wish", "error", "message"),
    [
        ({"only": ["norms"]}, ConfigError, "norms only"),
        ({"source": "npz:nowhere.npz", "only": ["probe"]}, TaskError, "nowhere"),
        ({"source": "builtin:digits-plain", "only": ["probe"]}, TaskError, "has 10"),
    ],
)
def test_wrong_wishes_are_refused_in_one_line(run, options, wish, error, message):
    with pytest.raises(error, match=message) as caught:
        autotune.compare(run, **options, **wish)
    assert "\n" not in str(caught.value)


def test_folds_are_pairs_and_what_is_tested_has_seen_them_all(options, tmp_path):
    """Without references of the search's own; LP-FT begins with a probe in every fold, too."""
    quick = {**QUICK, "folds": 3, "references": False}
    autotune.search(**options, **quick, out=str(tmp_path / "run"))
    compared = autotune.compare(tmp_path / "run", **options, only=["probe", "LP-FT"], seeds=2)
    assert [row.name for row in compared.rows] == ["autotune", "probe", "LP-FT"]
    for row in compared.rows:
        assert sorted(row.values) == [(seed, fold) for seed in (0, 1) for fold in (0, 1, 2)]
        assert [*row.tests] == [0, 1]
    assert compared.to_json()["rows"][1]["autotune_gains"]["pairs"] == 6


def test_objects_are_needed_again(run):
    with pytest.raises(RunError, match="compare"):
        autotune.compare(run)


def test_a_search_that_has_not_ended_is_not_compared(options, tmp_path):
    with (
        patch("autotune.session.session.run_finalists", side_effect=KeyboardInterrupt),
        pytest.raises(autotune.AutotuneError, match="resume"),
    ):
        autotune.search(**options, **QUICK, references=False, out=str(tmp_path / "run"))
    with pytest.raises(RunError, match="has an answer when it has ended"):
        autotune.compare(tmp_path / "run", **options)


def test_json_says_what_the_table_says(compared):
    json_form = json.loads(json.dumps(compared.to_json()))
    assert [row["name"] for row in json_form["rows"]] == list(NAMES)
    assert json_form["recommended"] in NAMES
    probe = json_form["rows"][1]
    difference = compared.rows[0].validation[0] - compared.rows[1].validation[0]
    assert probe["autotune_gains"]["mean"] == pytest.approx(difference)
    assert json_form["full_finetuning_seconds"] > 0
