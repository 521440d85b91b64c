"""A search that was interrupted before its first trial continues, and comes to the same end."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch

import autotune
from autotune.errors import Interrupted, RunError
from autotune.problem.job import Job, Progress
from autotune.study.run_folder import RunFolder
from autotune.training.engine import Engine

SEARCH = {"budget": "60%", "strategy": "random", "trials": 2, "epochs": 2, "bnstats": "auto"}

Summary = dict[str, Any]


def summary(study: autotune.Study) -> Summary:
    baselines = {name: (one.value, dict(one.test)) for name, one in study.baselines.items()}
    trials = [(str(trial.plan), trial.value, trial.curve) for trial in study.trials]
    assert study.preparation is not None
    return {"baselines": baselines, "trials": trials, "preparation": study.preparation.to_json()}


@pytest.fixture(scope="module")
def whole(
    new_tiny_network: Callable[[], torch.nn.Module],
    tiny_task: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> Summary:
    out = tmp_path_factory.mktemp("whole") / "run"
    return summary(autotune.search(new_tiny_network(), tiny_task, out=out, **SEARCH))


def interrupted_at(monkeypatch: pytest.MonkeyPatch, report: int) -> list[str]:
    """Let Ctrl-C come instead of this report of any job; returns the jobs that began."""
    run, jobs, left = Engine.__call__, list[str](), [report]

    def runs(engine: Engine, job: Job) -> Iterator[Progress]:
        jobs.append(job.name)
        for progress in run(engine, job):
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt
            yield progress

    monkeypatch.setattr(Engine, "__call__", runs)
    return jobs


@pytest.mark.parametrize("report", [1, 2, 6, pytest.param(9, marks=pytest.mark.slow), 14])
def test_a_search_interrupted_in_its_preparation_continues(
    new_tiny_network, tiny_task, tmp_path, monkeypatch, whole, report
):
    out = tmp_path / "run"
    with monkeypatch.context() as context:
        began = interrupted_at(context, report)
        with pytest.raises(Interrupted, match="continue with: autotune resume"):
            autotune.search(new_tiny_network(), tiny_task, out=out, **SEARCH)
    assert "new statistics" in began[-1]
    assert autotune.Study(out).status()["state"] == "interrupted"
    again = interrupted_at(monkeypatch, 10**6)
    study = autotune.resume(out, new_tiny_network(), tiny_task)
    assert summary(study) == whole
    recorded = {name[:-1] for name in began} - {began[-1][:-1]}
    assert not recorded & {name[:-1] for name in again}  # nothing recorded is trained again


@pytest.mark.parametrize("is_elsewhere", [False, True])
def test_a_search_killed_before_its_study_was_created_begins(
    new_tiny_network, tiny_task, tmp_path, monkeypatch, whole, is_elsewhere
):
    out, storage = tmp_path / "run", f"sqlite:///{tmp_path / 'elsewhere.db'}"
    options = {**SEARCH, "storage": storage} if is_elsewhere else SEARCH

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr("autotune.session.session.create_study", killed)
        with pytest.raises(Interrupted, match="continue with: autotune resume"):
            autotune.search(new_tiny_network(), tiny_task, out=out, **options)
    assert [path.name for path in out.iterdir()] == ["config.yaml"]
    with pytest.raises(RunError, match="needs a new folder"):
        autotune.search(new_tiny_network(), tiny_task, out=out, **options)
    assert summary(autotune.resume(out, new_tiny_network(), tiny_task)) == whole


@pytest.mark.parametrize("written", [0, 1, 2])
def test_a_search_killed_while_its_study_was_created_begins(
    new_tiny_network, tiny_task, tmp_path, monkeypatch, whole, written
):
    out, write, left = tmp_path / "run", optuna.Study.set_user_attr, [written]

    def killed(study: optuna.Study, name: str, value: Any) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        write(study, name, value)

    with monkeypatch.context() as context:
        context.setattr(optuna.Study, "set_user_attr", killed)
        with pytest.raises(Interrupted, match="continue with: autotune resume"):
            autotune.search(new_tiny_network(), tiny_task, out=out, **SEARCH)
    with pytest.raises(RunError, match="Continue with autotune resume"):
        autotune.Study(out).status()
    assert summary(autotune.resume(out, new_tiny_network(), tiny_task)) == whole


@pytest.mark.parametrize(
    ("change", "what"),
    [(Path.unlink, "missing"), (lambda file: file.write_bytes(b"x"), "not the file")],
    ids=["missing", "another"],
)
def test_a_run_does_not_continue_with_other_statistics(
    new_tiny_network, tiny_task, tmp_path, change, what
):
    settings = {**SEARCH, "bnstats": "on", "references": False, "trials": 1}
    autotune.search(new_tiny_network(), tiny_task, out=tmp_path / "run", **settings)
    change(tmp_path / "run" / "prepared.safetensors")
    with pytest.raises(RunError, match=f"prepared.safetensors is {what}"):
        autotune.resume(tmp_path / "run", new_tiny_network(), tiny_task, trials=2)


def test_a_search_whose_storage_was_taken_meanwhile_leaves_no_folder(
    new_tiny_network, tiny_task, tmp_path, monkeypatch
):
    """Two searches on one storage that begin together: the slower one has found it free."""
    url = f"sqlite:///{tmp_path / 'study.db'}"
    settings = {**SEARCH, "storage": url, "bnstats": "on", "references": False, "trials": 1}
    autotune.search(new_tiny_network(), tiny_task, out=tmp_path / "first", **settings)
    monkeypatch.setattr("autotune.session.api.require_free", lambda *_: None)
    with pytest.raises(RunError, match="has one already"):
        autotune.search(new_tiny_network(), tiny_task, out=tmp_path / "second", **settings)
    assert not (tmp_path / "second").exists()


def test_a_folder_that_becomes_read_only_ends_a_search_on_one_line(
    new_tiny_network, tiny_task, tmp_path, monkeypatch
):
    """What was recorded is kept: the search continues where it can be written."""
    out, write = tmp_path / "run", RunFolder.write
    settings = {**SEARCH, "bnstats": "off", "references": False}

    def refused(folder: RunFolder, file: Path, content: Any) -> None:
        if file.name == "delta.safetensors":
            raise PermissionError(errno.EACCES, "Permission denied", str(file))
        write(folder, file, content)

    with monkeypatch.context() as context:
        context.setattr(RunFolder, "write", refused)
        with pytest.raises(
            RunError, match=r"can be written, '.*' cannot \(Permission denied\)\. Copy"
        ):
            autotune.search(new_tiny_network(), tiny_task, out=out, **settings)
    study = autotune.resume(out, new_tiny_network(), tiny_task)
    assert [trial.state_name for trial in study.trials if not trial.baseline] == ["complete"] * 2
