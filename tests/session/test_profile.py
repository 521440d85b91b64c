"""`profile`: each unit alone, over seeds, resumable; and searches that begin with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import autotune
from autotune.cli.app import app
from autotune.errors import ConfigError, Interrupted
from autotune.utils.events import event_of, log

SPACE = """
family: any
units: {block: tree, layer: tree}
choices: [{lowrank: {rank: [1, 2]}}, {scale: {}}]
hyperparameters: {lr: {head: [0.01, 0.03], lowrank: [0.01, 0.03], scale: [0.01]}}
"""


@pytest.fixture
def small(tiny_network: Any, tiny_task: Any, tmp_path: Path, monkeypatch: Any) -> dict[str, Any]:
    (tmp_path / "space.yaml").write_text(SPACE)
    how = {"epochs": 2, "bnstats": "off", "references": False, "space": f"{tmp_path}/space.yaml"}
    return {"backbone": tiny_network, "task": tiny_task, **how}


@pytest.fixture
def profiled(small: dict[str, Any], tmp_path: Path) -> autotune.Study:
    options = {"choices": "lowrank-1,scale", "seeds": 2}
    return autotune.search(
        **small, budget="100%", strategy="profile", options=options, out=f"{tmp_path}/profile"
    )


@pytest.mark.slow
def test_has_every_unit_alone_in_depth_order_over_all_seeds(profiled):
    rows, units = profiled.profile, profiled.problem.units
    taking = [u for u in units if len(profiled.problem.choices[u]) > 1]
    assert rows[0].unit == "" and rows[0].parameters == 0
    assert list(dict.fromkeys(row.unit for row in rows[1:])) == taking
    assert {row.choice for row in rows[1:]} == {"lowrank-1", "scale"}
    assert {len(row.values) for row in rows} == {2}, rows
    trial = next(t for t in profiled.trials if t.plan.choices)
    row = next(
        r for r in rows[1:] if (r.unit, r.parameters) == (*trial.plan, trial.cost.parameters)
    )
    assert row.values[0] == trial.value


def test_repeats_count_in_what_was_trained(profiled):
    """`compare` gives random search as much compute, so repeats must have their seconds."""
    repeats = profiled._records.all_repeats
    assert {f"{trial.number}:1" for trial in profiled.trials} <= repeats.keys()
    assert all(repeat.seconds > 0 for repeat in repeats.values())
    trials = sum(trial.seconds for trial in profiled.trials)
    expected = trials + sum(repeat.seconds for repeat in repeats.values())
    assert profiled.training_seconds == pytest.approx(expected)


@pytest.mark.slow
def test_resumes_where_it_was_interrupted(small, tmp_path, profiled):
    class Stop:
        level, left = 0, 3

        def handle(self, record: Any) -> None:
            self.left -= getattr(event_of(record), "kind", "") == "repeat-of-finalist"
            if self.left == 0:
                raise KeyboardInterrupt

    stop = Stop()
    log.addHandler(stop)
    options = {"choices": "lowrank-1,scale", "seeds": 2}
    out = f"{tmp_path}/again"
    try:
        with pytest.raises(Interrupted):
            autotune.search(**small, budget="100%", strategy="profile", options=options, out=out)
    finally:
        log.removeHandler(stop)
    study = autotune.resume(out, backbone=small["backbone"], task=small["task"])
    assert study.profile == profiled.profile


def test_a_choice_that_no_unit_has_is_named(small, tmp_path):
    with pytest.raises(
        ConfigError, match=r"No unit takes the choice 'lowrank-9' here\. Known: low"
    ):
        autotune.search(
            **small,
            budget="100%",
            strategy="profile",
            options={"choices": "lowrank-9"},
            out=f"{tmp_path}/run",
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_greedy_takes_it_for_its_first_round(small, tmp_path, profiled):
    how = {"strategy": "greedy", "budget": "100%", "trials": 4}
    study = autotune.search(**small, **how, profile=f"{tmp_path}/profile", out=f"{tmp_path}/greedy")
    known = [t for t in study.trials if t.origin]
    assert [t.plan for t in known] == [t.plan for t in profiled.trials]
    assert len(study.trials) == len(known) + 4
    first = [t.plan for t in study.trials if not t.origin]
    assert all("lowrank-2" in str(plan) or len(plan) == 2 for plan in first)
    plain = autotune.search(**small, **{**how, "trials": 12}, out=f"{tmp_path}/plain")
    values = {t.plan: t.value for t in plain.trials}
    assert all(values.get(t.plan, t.value) == t.value for t in known)


@pytest.mark.slow
def test_more_trials_than_the_profile_has_can_be_asked_for_later(small, tmp_path, profiled):
    how = {"strategy": "random", "budget": "100%", "trials": 1}
    out = f"{tmp_path}/run"
    study = autotune.search(**small, **how, profile=f"{tmp_path}/profile", out=out)
    n = len(study.trials)
    more = autotune.resume(out, small["backbone"], small["task"], trials=2)
    assert n == len(profiled.trials) + 1
    assert len(more.trials) == n + 1


@pytest.mark.slow
def test_a_profile_of_another_training_is_refused(small, tmp_path, profiled):
    other = {**small, "epochs": 3}
    with pytest.raises(ConfigError, match="differs in epochs"):
        autotune.search(
            **other, budget="100%", profile=f"{tmp_path}/profile", out=f"{tmp_path}/run"
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.processes
def test_the_command_writes_a_table_a_figure_and_json(tmp_path):
    out = tmp_path / "profile"
    how = ["--task", "builtin:digits", "--choices", "scale", "--epochs", "1", "--out", str(out)]
    ended = CliRunner().invoke(app, ["profile", *how, "--seeds", "1", "--json", "--quiet"])
    assert ended.exit_code == 0, ended.output
    printed = json.loads(ended.stdout)
    assert printed == json.loads((out / "profile.json").read_text())
    assert [row["unit"] for row in printed["rows"]][:2] == ["", "stem"]
    assert "plotly" in (out / "profile.html").read_text()
