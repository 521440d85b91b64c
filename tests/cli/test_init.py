"""The configuration that `init` writes: every setting, told once, and accepted by search."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from autotune.run.settings import Settings


@pytest.fixture
def written(call, tmp_path, monkeypatch) -> str:
    monkeypatch.chdir(tmp_path)
    assert call("init", "--budget", "50k")[0] == 0
    return Path("autotune.yaml").read_text()


def test_what_is_given_is_active_and_the_rest_stands_as_comments(written):
    answers = {"backbone": "builtin:digits", "task": "builtin:digits", "budget": "50k"}
    assert yaml.safe_load(written) == answers
    shown = yaml.safe_load(re.sub(r"(?m)^# (?=\w+: )", "", written))
    assert shown == {**Settings().model_dump(), **answers}


def test_every_setting_has_a_line_that_says_what_it_does(written):
    lines = written.splitlines()
    for name in Settings.model_fields:
        (at,) = (i for i, line in enumerate(lines) if re.match(rf"(# )?{name}: ", line))
        assert re.fullmatch(r"# \S.{8,}\.", lines[at - 1])
        assert lines[at - 2] == ""


def test_numbers_and_flags_say_what_they_take(written):
    assert " A whole number from 1.\n# epochs: 10" in written
    assert " A number above 0.\n# timeout: null" in written
    assert " True or false.\n# fuse_batchnorm: false" in written


def test_search_accepts_it(written, call):
    code, out, err = call("search", "--config", "autotune.yaml", "--dry-run", "-o", "epochs=1")
    assert (code, err) == (0, "")
    assert "Budget 50k = 50,000 parameters" in out
    assert not Path("runs").exists()


def test_a_file_that_exists_is_written_over_by_force_alone(written, call):
    code, _, err = call("init", "--budget", "2%")
    assert code == 2
    assert "'autotune.yaml' already exists. Name another with -o, or overwrite it" in err
    assert Path("autotune.yaml").read_text() == written
    assert call("init", "--budget", "2%", "--force")[0] == 0
    assert yaml.safe_load(Path("autotune.yaml").read_text())["budget"] == "2%"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--backbone", "torchvison:resnet18"), "Did you mean 'torchvision'"),
        (("--task", "flowers"), "There is no task source named 'flowers'"),
        (("--budget", "lots"), "Write it as 1%"),
    ],
)
def test_wrong_use_writes_nothing(call, tmp_path, options, message):
    code, _, err = call("init", *options, "-o", tmp_path / "new.yaml")
    assert code == 2
    assert message in err
    assert not (tmp_path / "new.yaml").exists()
