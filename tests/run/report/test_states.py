"""Every kind of study has a sensible report: failed, empty, single, thousands, read-only."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from autotune.problem.budget import Budget, Cost
from autotune.problem.plan import Choice
from autotune.problem.problem import Problem
from autotune.run.notebook import Study
from autotune.run.report import FORMS, report_of, write_report
from autotune.run.report.section import Report
from autotune.run.settings import Settings, write_settings
from autotune.study.driver import create
from autotune.study.reader import Records
from autotune.study.run_folder import RunFolder
from autotune.study.strategies.base import search_space

UNITS = ("stem", "block1", "block2", "block3")
PROBLEM = Problem.of(
    {u: {Choice.of("lowrank", rank=r): Cost(r, r, 4 * r) for r in (10, 20)} for u in UNITS},
    Budget(80, 1000, text="8%"),
)
SPACE = search_space(PROBLEM, {"lr:head": (0.01, 0.1), "lr:lowrank": (0.01,)})


def trial(at: int, state: TrialState = TrialState.COMPLETE) -> FrozenTrial:
    """One that ended, its plan drawn by its number."""
    draw = np.random.default_rng(at)
    params = {name: draw.choice(one.choices) for name, one in SPACE.items()}
    params = {k: v.item() if isinstance(v, np.generic) else v for k, v in params.items()}
    value = float(draw.uniform(0.5, 0.9))
    record = {"metrics": {}, "seconds": 1.0}
    if state is TrialState.FAIL:
        record["error"] = "RuntimeError: it <b>broke</b>"
    return create_trial(
        state=state,
        params=params,
        distributions=dict(SPACE),
        value=value if state is TrialState.COMPLETE else None,
        intermediate_values={1: value / 2, 2: value},
        user_attrs={"record": record},
    )


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., Path]:
    """Run folders with these trials, none of which has an answer."""

    def make(trials: list[FrozenTrial], name: str = "run") -> Path:
        folder = RunFolder(tmp_path / name)
        begun: dict[str, Any] = {"identity": {"metric": "accuracy", "seed": 0, "data": "x"}}
        create(folder, None, PROBLEM, begun)
        Records(folder, None, is_writable=True).study.add_trials(trials)
        folder.config.write_text(write_settings(Settings(strategy="random")))
        return folder.path

    return make


OF_A_TRIAL = {
    "trial_params": "param_name, param_value, distribution_json",
    "trial_values": "objective, value, value_type",
    "trial_intermediate_values": "step, intermediate_value, intermediate_value_type",
    "trial_user_attributes": "key, value_json",
}
"""Optuna's tables → what is copied."""


def copied(file: Path, times: int) -> None:
    """As many trials as if each of a study had run so often, without asking for each."""
    with closing(sqlite3.connect(file)) as database, database:
        (n,) = database.execute("SELECT count(*) FROM trials").fetchone()
        for shift in range(n, n * times, n):
            shared = "study_id, state, datetime_start, datetime_complete"
            database.execute(
                f"INSERT INTO trials (trial_id, number, {shared}) "
                f"SELECT trial_id + {shift}, number + {shift}, {shared} "
                f"FROM trials WHERE number < {n}"
            )
            for name, columns in OF_A_TRIAL.items():
                database.execute(
                    f"INSERT INTO {name} (trial_id, {columns}) "
                    f"SELECT trial_id + {shift}, {columns} FROM {name} WHERE trial_id <= {n}"
                )


def told(folder: Path) -> dict[str, Any]:
    return json.loads(write_report([Study(folder, still=True)], "json"))["sections"]


@pytest.mark.parametrize("form", FORMS.names())
def test_a_study_without_trials_says_so(made, form):
    text = write_report([Study(made([]))], form)
    assert "There is no answer yet" in text and "none of its 0 trials was completed" in text


def test_a_study_whose_trials_all_failed_reports_their_errors(made):
    report_text = told(made([trial(i, TrialState.FAIL) for i in range(3)]))
    assert "none of its 3 trials was completed" in report_text["answer"]["text"][0]
    assert {row["remark"] for row in report_text["history"]["rows"]} == {
        "RuntimeError: it <b>broke</b>"
    }
    assert "network" not in report_text


def test_what_trials_say_is_text_on_the_page_and_no_code(made):
    text = write_report([Study(made([trial(0, TrialState.FAIL)]))])
    assert "it <b>broke</b>" not in text and "it &lt;b&gt;broke&lt;/b&gt;" in text


def test_a_single_trial_is_the_best_so_far(made):
    report_text = told(made([trial(0)]))
    assert "The best of 1 complete trial" in report_text["answer"]["text"][0]
    assert [row["unit"] for row in report_text["network"]["rows"]] == list(UNITS)
    assert report_text["importance"]["text"] == [
        "Importances need 10 complete trials, there are 1."
    ]


def test_only_the_page_draws_images(made):
    def refuse() -> NoReturn:
        raise AssertionError("drawn")

    report = report_of([Study(made([trial(0)]))])
    sections = [replace(s, draw=refuse if s.draw else None) for s in report.sections]
    undrawn = Report(report.title, tuple(sections))
    assert "The network" in FORMS.load("md")(undrawn) and FORMS.load("json")(undrawn)
    with pytest.raises(AssertionError, match="drawn"):
        FORMS.load("html")(undrawn)


def test_states_stay_apart(made):
    states = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL]
    report_text = told(made([trial(i, state) for i, state in enumerate(states)]))
    assert [row["state"] for row in report_text["history"]["rows"]] == [
        "complete",
        "pruned",
        "failed",
    ]
    assert report_text["history"]["text"] == ["3 trials: 1 complete, 1 pruned, 1 failed."]


def test_an_answer_that_was_a_baseline_says_so(made):
    """And a trial that was one says where it is from."""
    reached = {"accuracy": 0.9, "n": 100}
    seeds = {"seeds": {"0": 0.9}, "mean": 0.9, "std": 0.0}
    admitted = trial(1)
    admitted.user_attrs["record"]["origin"] = "reference uniform"
    folder = made([trial(0), admitted])
    plan = Study(folder).trials[1].plan
    final = {
        "number": 1,
        "reference": "uniform",
        "value": 0.9,
        "test": reached,
        "empty": False,
        "plan": plan.to_json(),
        "label": str(plan),
        "cost": asdict(PROBLEM.cost(plan)),
        "values": seeds,
        "tests": seeds,
        "metrics": reached,
        "hyperparameters": {},
    }
    Records(RunFolder(folder), None, is_writable=True).study.set_user_attr("stage:final", final)
    report_text = told(folder)
    note = "Trial 1 is uniform low rank, a baseline within the budget"
    assert any(line.startswith(note) for line in report_text["answer"]["text"])
    assert [row["remark"] for row in report_text["history"]["rows"]] == [
        "",
        "from reference uniform",
    ]


@pytest.mark.slow
def test_thousands_of_trials_are_drawn_and_the_best_are_listed(made):
    folder = made([trial(i) for i in range(50)])
    copied(folder / "study.db", 100)
    report_text, text = told(folder), Study(folder).report()
    assert report_text["history"]["text"][0].startswith("5,000 trials: 5,000 complete")
    best = max(t.value for t in Study(folder).trials)
    assert max(row["validation"] for row in report_text["history"]["rows"]) == best
    assert len(report_text["history"]["rows"]) == 200
    assert sum(row["importance"] for row in report_text["importance"]["rows"]) == pytest.approx(1)
    assert len(text) < 8_000_000


@pytest.fixture
def read_only(made: Callable[..., Path], tmp_path: Path) -> Iterator[Path]:
    """A run folder on a disk that cannot be written."""
    at = tmp_path / "sealed"
    at.mkdir()
    made([trial(i) for i in range(3)])
    bound = subprocess.run(["mount", "--bind", tmp_path / "run", at], capture_output=True)
    if bound.returncode:
        pytest.skip("a disk cannot be mounted by this user")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", at], check=True)
        yield at
    finally:
        subprocess.run(["umount", "-l", at], check=True)


def test_of_a_read_only_folder_the_page_goes_here_and_says_so(
    read_only, call, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    code, out, err = call("report", read_only)
    assert code == 0 and "cannot be written" in err
    assert "There is no answer yet" in (tmp_path / "report-sealed.html").read_text()
    assert "report-sealed.html" in out


def test_a_report_of_several_runs_names_what_differs(made):
    studies = [Study(made([trial(i)], name)) for i, name in enumerate(("one", "two"))]
    report_text = json.loads(write_report(studies, "json"))["sections"]
    assert [row["run"].rpartition("/")[2] for row in report_text["results"]["rows"]] == [
        "one",
        "two",
    ]
    assert [row["unit"] for row in report_text["plans"]["rows"]] == list(UNITS)
    assert report_text["differences"]["rows"] == []


def test_an_unknown_form_is_refused(made, call):
    code, _, err = call("report", made([]), "--format", "htm")
    assert code == 2 and "Did you mean 'html'?" in err
