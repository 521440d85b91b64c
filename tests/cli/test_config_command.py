"""`config` shows what a run or a file resolves to and where each setting was given."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from autotune.run.settings import Settings, read_settings


@pytest.fixture
def origins(call):
    """Setting → value and where it was given, of a run or a file."""

    def show(source: Path) -> dict[str, tuple[object, str]]:
        code, out, err = call("config", source, "--json")
        assert (code, err) == (0, "")
        return {name: (row["value"], row["from"]) for name, row in json.loads(out).items()}

    return show


def test_a_run_knows_what_its_options_gave(finished, origins):
    lines = origins(finished)
    assert list(lines) == list(Settings.model_fields)
    assert lines["epochs"] == (2, "option")
    assert lines["out"] == (str(finished), "option")
    assert lines["budget"] == ("1%", "default")
    assert {name for name, (_, place) in lines.items() if place == "option"} == {
        *("strategy", "trials", "epochs", "out")
    }


def test_a_resumed_run_knows_what_was_changed(finished, origins, call, tmp_path):
    copied = shutil.copytree(finished, tmp_path / "run")
    assert call("resume", copied, "--device", "cpu", "--retries", 2, "--quiet")[0] == 0
    lines = origins(copied)
    assert lines["device"] == ("cpu", "resume")
    assert lines["retries"] == (2, "default")
    assert lines["epochs"] == (2, "option")


def test_a_run_without_origins_reports_what_is_no_default(finished, origins, tmp_path):
    copied = shutil.copytree(finished, tmp_path / "run")
    (copied / "origins.json").unlink()
    lines = origins(copied)
    assert lines["epochs"] == (2, "the run")
    assert lines["seed"] == (0, "default")
    assert lines["trials"] == (3, "the run")


def test_a_file_is_resolved(origins, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("strategy: greedy\noptions: {direction: backward}\nseed: 0\n")
    lines = origins(file)
    assert lines["options"] == ({"direction": "backward"}, "file")
    assert lines["seed"] == (0, "file")
    assert lines["trials"] == (1000, "strategy default")


def test_what_is_shown_is_a_configuration_again(call, finished, tmp_path):
    code, out, _ = call("config", finished)
    assert code == 0
    (tmp_path / "again.yaml").write_text(out)
    before, again = finished / "config.yaml", tmp_path / "again.yaml"
    assert read_settings({}, file=str(again)) == read_settings({}, file=str(before))
    (line,) = (line for line in out.splitlines() if line.startswith("epochs: 2"))
    assert line.endswith("  # option")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "A run folder must contain config.yaml, 'nowhere' does not. Check the path."),
        ("nowhere.yaml", "A configuration file must exist, 'nowhere.yaml' does not."),
    ],
)
def test_what_is_not_there_is_refused(call, source, message):
    code, out, err = call("config", source)
    assert (code, out) == (2, "")
    assert message in err


def test_an_unknown_key_of_search_names_the_nearest(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = call("search", "-o", "trails=3", "--dry-run")
    assert (code, err.count("\n")) == (2, 1)
    assert "There is no setting named 'trails'. Did you mean 'trials'?" in err
    wrong = ("--strategy", "greedy", "-o", "options.directoin=backward")
    assert "Did you mean 'direction'" in call("search", *wrong, "--dry-run")[2]


def test_options_stand_over_assigned_ones_and_these_over_the_file(call, tmp_path, monkeypatch):
    """Wrong values say which one was taken."""
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("folds: 1\nmetric: a\nkeep: a\n")
    assigned = ("-o", "metric=b", "-o", "keep=b")
    code, _, err = call("search", "--config", "mine.yaml", *assigned, "--keep", "c", "--dry-run")
    assert code == 2
    for part in ("folds: one fold", "got 'b'", "got 'c'"):
        assert part in err
    assert "got 'a'" not in err
