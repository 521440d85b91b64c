"""One real search through the command line, and everything that is done with its folder."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file

from autotune.backbones.sources.digits_data import halves
from autotune.problem.plan import Plan
from autotune.run.notebook import Study
from autotune.run.report import sections_of

from .conftest import autotune


@pytest.fixture(scope="module")
def status(finished: Path, shown) -> dict:
    return shown("status", finished)


@pytest.fixture(scope="module")
def mask(finished: Path, output, tmp_path_factory) -> tuple[dict, dict[str, torch.Tensor]]:
    out = tmp_path_factory.mktemp("mask")
    made = out / "mask.json", out / "mask.safetensors"
    output("export", finished, "--format", "mask", "-o", made[0], "--tensors", made[1])
    return json.loads(made[0].read_text()), load_file(made[1])


def files(folder: Path) -> set[str]:
    return {str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file()}


# the folder


def test_the_folder_holds_what_it_should_and_nothing_else(finished, status):
    """`trials/` has the deltas of the best trials, repeats beside them; no lease, no checkpoint."""
    best = {f"best/{name}" for name in ("delta.safetensors", "plan.json")}
    always = {"config.yaml", "origins.json", "study.db", "log.jsonl", *best}
    prepared = {"prepared.safetensors"} if status["preparation"]["bnstats"] == "on" else set()
    names = {f for f in files(finished) if not f.endswith(("-wal", "-shm"))}  # of who reads it
    trials = {name for name in names if name.startswith("trials/")}
    assert names - trials == always | prepared
    kept = re.compile(r"trials/000[0-4]/delta(-seed-[12])?\.safetensors")
    assert all(kept.fullmatch(name) for name in trials)
    deltas = {name for name in trials if name.endswith("/delta.safetensors")}
    admitted = any(trial.baseline for trial in Study(finished).trials)  # has one where it won
    assert 0 <= len(deltas) - status["trials"]["complete"] <= admitted


def test_the_configuration_is_resolved_and_enough_to_repeat(finished):
    config = yaml.safe_load((finished / "config.yaml").read_text())
    expected = {"backbone": "builtin:digits", "budget": "1%", "epochs": 2, "trials": 3, "seed": 0}
    assert expected.items() <= config.items()
    assert config["out"] == str(finished)


def test_the_log_is_one_event_a_line(finished):
    events = [json.loads(line) for line in (finished / "log.jsonl").read_text().splitlines()]
    kinds = [event["kind"] for event in events]
    assert {"stage", "reference", "start", "end", "repeat-of-finalist"} <= set(kinds)
    assert kinds.count("start") == kinds.count("end") + kinds.count("repeat") == 3
    assert all(event["text"] and event["time"] > 0 for event in events)


def test_the_plan_file_is_the_answer(finished, status):
    assert json.loads((finished / "best" / "plan.json").read_text()) == status["best"]["plan"]


# status


def test_every_second_is_counted_once(status):
    seconds_by_stage = status["timings"]
    assert sum(seconds_by_stage.values()) == pytest.approx(status["seconds"])
    stages = {"data", "prefix", "training", "evaluation", "proposing", "storage", "other"}
    assert set(seconds_by_stage) == stages
    assert all(seconds_of_stage > 0 for seconds_of_stage in seconds_by_stage.values())


def test_timings_are_shown_when_they_are_asked_for(finished, output, tmp_path):
    copied = shutil.copytree(finished, tmp_path / "run")
    timings_shown = output("resume", copied, "--timings")
    assert (
        "What the search cost" in timings_shown
        and "computing the frozen part before a plan" in timings_shown
    )


def test_status_says_where_the_search_stands(status, finished):
    assert status["state"] == "complete"
    assert sum(status["trials"].values()) == status["asked"] == 3
    assert status["budget"].items() >= {"measure": "parameters", "text": "1%"}.items()
    assert status["budget"]["limit"] == status["budget"]["total"] // 100
    assert status["seconds"] > 0
    assert Path(status["run"]) == finished


def test_status_has_the_best_plan_within_the_budget(status, finished):
    best = status["best"]
    assert best.keys() >= {"number", "value", "cost", "plan"}
    assert 0 <= best["cost"]["parameters"] <= status["budget"]["limit"]
    plan = Plan.from_json(json.dumps(best["plan"]))
    assert Study(finished).problem.cost(plan).parameters == best["cost"]["parameters"]
    assert 0 < best["value"] <= 1


def test_status_has_the_test_of_the_answer(status):
    test = status["test"]
    assert test.keys() == {"metric", "value", "accuracy", "n"}
    assert test["metric"] == "accuracy"
    assert test["value"] == test["accuracy"] == status["final"]["test"]["accuracy"]
    assert 0 < test["accuracy"] <= 1
    assert test["n"] > 100


def test_status_has_the_references_with_their_costs(status):
    references = status["references"]
    assert {"probe", "uniform", "random"} <= references.keys()
    assert references["probe"]["cost"]["parameters"] == 0
    for name in ("uniform", "random"):
        cost = references[name]["cost"]["parameters"]
        assert 0.8 * status["budget"]["limit"] < cost <= status["budget"]["limit"]
        assert references[name]["test"]["n"] == status["test"]["n"]


def test_status_reports_the_preparation_with_both_probes(status):
    preparation, references = status["preparation"], status["references"]
    assert preparation["bnstats"] in ("on", "off")
    other = "off" if preparation["bnstats"] == "on" else "on"
    assert preparation["probe"][preparation["bnstats"]] == references["probe"]["value"]
    assert preparation["probe"][other] == references[f"probe (bnstats {other})"]["value"]


def test_the_terminal_says_what_the_report_says(finished, call):
    code, out, _ = call("status", finished)
    study = Study(finished)
    (answer,) = sections_of(study, ["answer"])
    assert code == 0 and answer.table is not None
    assert f"The search in {finished} is complete. Trials: " in out
    for text in (*answer.text, *(text for row in answer.table.texts() for text in row)):
        assert text in out


def test_an_interrupted_search_is_shown_with_the_command_that_resumes_it(finished, call, tmp_path):
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    with closing(sqlite3.connect(folder / "study.db")) as database, database:
        database.execute("DELETE FROM study_user_attributes WHERE key = 'stage:final'")
    code, out, _ = call("status", folder)
    assert code == 0 and "There is no answer yet: the search is interrupted." in out
    assert f"autotune resume {folder}" in out and "linear probe" in out


# use


@pytest.mark.slow
def test_evaluate_finds_the_same_in_a_new_process(finished, status):
    printed = json.loads(autotune("evaluate", finished, "--json").stdout)
    assert printed["accuracy"] == status["test"]["accuracy"]
    assert printed["n"] == status["test"]["n"]


def test_evaluate_on_validation_is_the_winner_s_value(finished, status, call):
    code, out, _ = call("evaluate", finished, "--part", "val", "--json")
    printed = json.loads(out)
    assert code == 0
    assert printed["accuracy"] == pytest.approx(status["best"]["value"], abs=1e-6)


def test_predict_classifies_an_array(finished, tmp_path, call):
    """`builtin:digits` shows the other half of the digits inverted."""
    _, (x, y) = halves()
    np.save(tmp_path / "digits.npy", 1 - x[:200])
    _, out, _ = call("predict", finished, tmp_path / "digits.npy", "--json")
    printed = json.loads(out)
    right = sum(one["class"] == str(label) for one, label in zip(printed, y, strict=False))
    assert len(printed) == 200
    assert right > 100
    assert all(0.1 <= one["probability"] <= 1 for one in printed)
    assert printed[7]["input"].endswith("digits.npy[7]")


def test_inspect_reads_the_delta_file_alone(finished, status, tmp_path, call):
    shutil.copy(finished / "best" / "delta.safetensors", tmp_path)
    _, out, _ = call("inspect", tmp_path / "delta.safetensors", "--json")
    header = json.loads(out)
    assert header["metrics"]["test"]["accuracy"] == status["test"]["accuracy"]
    assert header["cost"]["parameters"] == status["best"]["cost"]["parameters"]
    assert header["fingerprint"] == Study(finished).identity["backbone's fingerprint"]
    assert {"plan", "input", "task", "format", "tensors"} <= header.keys()
    assert any(name.startswith("head/") for name in header["tensors"])


# the mask


def test_the_mask_has_the_documented_keys(mask, status, finished):
    content, _ = mask
    assert content.keys() == {"format", "backbone", "about", "fingerprint", "budget", "units"}
    assert (content["format"], content["backbone"]) == (1, "builtin:digits")
    assert content["budget"].keys() == {"limit", "total", "measure", "text"}
    assert content["fingerprint"] == Study(finished).identity["backbone's fingerprint"]
    keys = {"selected", "label", "methods", "cost", "parameters"}
    assert all(unit.keys() == keys for unit in content["units"].values())
    assert all(
        m.keys() == {"name", "options"} for u in content["units"].values() for m in u["methods"]
    )


def test_the_mask_is_the_plan(mask, status):
    content, _ = mask
    selected = {name for name, unit in content["units"].items() if unit["selected"]}
    assert selected == set(status["best"]["plan"]["units"])
    assert sum(u["cost"] for u in content["units"].values()) == status["best"]["cost"]["parameters"]
    for name, unit in content["units"].items():
        assert unit["methods"] == status["best"]["plan"]["units"].get(name, [])
        assert (unit["label"] == "frozen") == (not unit["selected"]) == (unit["cost"] == 0)


def test_the_mask_s_tensors_are_boolean_and_shaped_as_the_parameters(mask):
    from autotune.backbones import load_backbone

    content, tensors = mask
    parameters = load_backbone("builtin:digits").parameters()
    named = {name for unit in content["units"].values() for name in unit["parameters"]}
    assert tensors.keys() == parameters.keys()
    for name, tensor in tensors.items():
        assert tensor.dtype == torch.bool
        assert tensor.shape == parameters[name].shape
        assert bool(tensor.all()) == bool(tensor.any()) == (name in named)


# a search that goes on


@pytest.fixture(scope="module")
def longer(finished: Path, output, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("longer") / "digits"
    shutil.copytree(finished, folder)
    output("resume", folder, "--trials", 5, "--quiet")
    return folder


def test_resume_adds_trials_and_keeps_those_that_ran(finished, longer):
    before, after = Study(finished), Study(longer)
    assert len([t for t in after.trials if not t.baseline]) == 5
    assert after.trials[: len(before.trials)] == before.trials
    assert after.baselines == before.baselines
    assert after.state == "complete"
    assert after.settings.trials == 5


def test_resume_chooses_again_among_all_trials(longer):
    study, beaten = Study(longer), Study(longer).baselines["probe"].value
    ranked = study._records.ranked()
    assert study.final is not None
    if study.best.number is None:
        assert study.best.value == beaten
    else:
        assert study.best.number in [record.number for record in ranked[:2]]
    with safe_open(study.best.artifact, "pt") as stored:
        assert json.loads(stored.metadata()["plan"]) == json.loads(study.best.plan.to_json())


def test_resume_of_a_finished_search_trains_nothing(finished, output, tmp_path):
    folder = tmp_path / "again"
    shutil.copytree(finished, folder)
    output("resume", folder, "--quiet")
    before, after = Study(finished), Study(folder)
    assert after.trials == before.trials
    assert after.final == before.final
    events = [json.loads(line)["kind"] for line in (folder / "log.jsonl").read_text().splitlines()]
    assert events.count("start") == events.count("end") == 3
