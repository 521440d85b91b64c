"""What can be given to search, by name, with methods of other packages among ours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from autotune.deltas import METHODS
from autotune.problem.plan import Plan
from autotune.study.pruners import PRUNERS
from autotune.study.strategies import STRATEGIES

from .conftest import autotune

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
KEYS = ["name", "what", "mergeable", "inference", "where", "paper", "package", "error"]


@pytest.fixture
def example_package(install):
    """The example's package, without pip: its entry point beside its folder."""
    install("autotune-own-delta", {"input_scale": "own_delta:InputScale"}, EXAMPLES)


@pytest.fixture
def alone(tmp_path: Path) -> Path:
    """The example's search space with that method alone."""
    space = yaml.safe_load((EXAMPLES / "own_delta.yaml").read_text())
    file = tmp_path / "alone.yaml"
    file.write_text(yaml.safe_dump({**space, "choices": [{"input_scale": {}}]}))
    return file


def test_every_kind_is_listed_by_names_alone(call):
    code, out, _ = call("list")
    assert code == 0
    lines = dict(line.split(": ", 1) for line in out.splitlines())
    kinds = "backbones tasks methods strategies pruners spaces metrics formats"
    assert lines.keys() == set(kinds.split())
    assert tuple(lines["pruners"].split(", ")) == PRUNERS.names()
    assert tuple(lines["methods"].split(", ")) == METHODS.names()
    entries = json.loads(call("list", "strategies", "--json")[1])
    assert entries == {"strategies": list(STRATEGIES.names())}


def test_methods_are_listed_with_what_they_do(call):
    entries = json.loads(call("list", "methods", "--json")[1])
    assert [row["name"] for row in entries] == list(METHODS.names())
    assert all(list(row) == KEYS for row in entries)
    for row in (row for row in entries if row["package"] == "autotune"):
        assert all(row[key] for key in ("what", "inference", "where", "paper"))
        assert row["error"] is None
        assert row["mergeable"] is METHODS.load(row["name"]).mergeable
        assert (row["inference"] == "none") == row["mergeable"]


def test_the_table_of_methods_cuts_no_word_at_eighty_columns(call, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    rows = json.loads(call("list", "methods", "--json")[1])
    code, out, _ = call("list", "methods")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    words = {
        w for row in rows for key in ("name", "what", "where", "paper") for w in row[key].split()
    }
    assert words <= set(out.split())


@pytest.mark.slow
def test_a_method_of_another_package_is_listed_with_its_package(example_package):
    done = autotune("list", "methods", "--json")
    (row,) = (row for row in json.loads(done.stdout) if row["name"] == "input_scale")
    assert row["package"] == "autotune-own-delta"
    assert row["mergeable"]


@pytest.mark.usefixtures("example_package")
def test_the_table_says_which_package_a_method_comes_from(output):
    table = output("list", "methods")
    assert "a factor per input" in table
    assert table.endswith("input_scale comes from the package autotune-own-delta.\n")


@pytest.mark.slow
@pytest.mark.usefixtures("example_package")
def test_a_method_of_another_package_is_offered_and_found_by_its_name(
    output, shown, alone, tmp_path
):
    units = shown("units", "--space", alone)["units"]
    labels = {unit["name"]: [choice["label"] for choice in unit["choices"]] for unit in units}
    assert labels["layer1.0"] == ["input_scale"]
    how = ("--trials", 1, "--epochs", 1, "--no-references", "--bnstats", "off", "--quiet")
    output("search", "--space", alone, *how, "--out", tmp_path / "run")
    plan = Plan.from_json((tmp_path / "run" / "best" / "plan.json").read_text())
    assert plan.methods() == ("input_scale",)
    assert shown("evaluate", tmp_path / "run")["n"] > 100


def test_a_delta_of_a_package_that_is_gone_is_refused_by_name(call, alone):
    code, _, errors = call("units", "--space", alone)
    assert code == 2
    assert "There is no delta named 'input_scale'" in errors


def test_a_broken_package_disturbs_nothing_and_is_named(install, call, alone):
    install("broken", {"input_scale": "no_such_module:X", "lowrank": "no_such_module:Y"})
    message = "The delta 'input_scale' of the package broken must load, no_such_module:X does not"
    _, listed, errors = call("list", "methods")
    assert "factor per output" in listed
    assert message in listed
    assert errors == (
        "The delta 'lowrank' of the package broken is left out: autotune has that name "
        "already. Rename it there.\n"
    )
    code, units, _ = call("units")
    assert code == 0
    assert "lowrank-1/2/4" in units
    code, _, errors = call("search", "--space", alone, "--dry-run", "--quiet")
    assert code == 2
    assert errors.count("\n") == 1
    assert message in errors
