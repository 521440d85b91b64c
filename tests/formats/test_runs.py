"""Run folders that earlier versions wrote are read, reported, compared and resumed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

import autotune

from .network import SHAPE, numbers, small
from .test_formats import FOLDER, VERSIONS


def task() -> TensorDataset:
    """Three classes that differ by a shift: what the runs were searched on."""
    labels = torch.from_numpy(np.arange(180) % 3)
    shifted = numbers(180 * 72).view(180, *SHAPE) + labels.float().view(-1, 1, 1, 1) / 4
    return TensorDataset(shifted, labels)


def expected(version: str) -> dict[str, Any]:
    return json.loads((FOLDER / version / "run-expected.json").read_text())


def copied(version: str, name: str, folder: Path) -> Path:
    """A run that may be written to."""
    return Path(shutil.copytree(FOLDER / version / f"run-{name}", folder / name))


@pytest.mark.parametrize("version", VERSIONS)
def test_the_trials_and_the_answer_of_a_run_are_read(version, tmp_path):
    study = autotune.Study(copied(version, "ended", tmp_path))
    trials = [[t.number, t.state_name, t.value, str(t.plan)] for t in study.trials]
    assert trials == expected(version)["trials"]
    assert study.state == "complete"
    assert study.final.to_json().items() >= expected(version)["final"].items()
    for name, baseline in expected(version)["references"].items():
        assert study.baselines[name].to_json().items() >= baseline.items()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_run_is_reported_with_its_comparison(version, tmp_path):
    study = autotune.Study(copied(version, "ended", tmp_path))
    assert {"autotune", "last-k", "random search"} <= {row.name for row in study.comparison}
    assert study.best.plan.choices
    assert study.policy.rounds > 0
    assert "last-k" in study.report()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_delta_of_a_run_is_loaded(version, tmp_path):
    study = autotune.Study(copied(version, "ended", tmp_path))
    network = autotune.load_adapted(small(), study.best.artifact)
    assert network(numbers(2 * 72).view(2, *SHAPE)).shape == (2, 3)


@pytest.mark.parametrize("version", VERSIONS)
def test_an_interrupted_run_is_resumed(version, tmp_path):
    run = copied(version, "interrupted", tmp_path)
    (first,) = [t for t in autotune.Study(run).trials if t.is_complete]
    study = autotune.resume(run, small(), task())
    assert study.state == "complete"
    assert [t.state_name for t in study.trials][:3] == ["complete"] * 3
    assert (study.trials[0].value, study.trials[0].plan) == (first.value, first.plan)
    before = expected(version)["trials"]
    assert study.trials[1].value == pytest.approx(before[1][2], abs=0.1)
