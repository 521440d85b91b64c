"""Each sink writes what its own library reads back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from autotune.errors import ConfigError, DependencyError, UnknownName
from autotune.run.trackers import SINKS, told_to
from autotune.utils.events import tell


def tell_a_search() -> None:
    """What a small search says."""
    begun = {
        "task": "t",
        "budget": "1%",
        "limit": 10,
        "metric": "accuracy",
        "trials": 1,
        "run": "r",
    }
    tell("begin", "begin", **begun)
    tell("reference", "probe", name="probe (bnstats off)", value=0.5)
    for step, value in ((1, 0.6), (2, 0.75)):
        tell("progress-of-trial", "epoch", number=0, step=step, steps=2, value=value)
    ended: dict[str, Any] = {"number": 0, "value": 0.75, "cost": 8, "plan": "stem=scale"}
    tell("end", "end", state="complete", seconds=1.5, **ended)
    tell("end", "failed", number=1, value=None, cost=8, plan="", state="failed", seconds=0.1)
    tell("answer", "The answer is in r/best")


def test_lines_of_json_are_appended(tmp_path: Path):
    file = tmp_path / "events.jsonl"
    file.write_text('{"kind": "older"}\n')
    with told_to([f"json:{file}"]):
        tell_a_search()
    kinds = [json.loads(line)["kind"] for line in file.read_text().splitlines()]
    assert kinds[:3] == ["older", "begin", "reference"] and kinds[-1] == "answer"


def test_lines_of_json_go_to_standard_output_too(capsys: pytest.CaptureFixture[str]):
    with told_to(["json:-"]):
        tell("start", "one", number=1)
    assert json.loads(capsys.readouterr().out)["number"] == 1


def test_tensorboard_reads_curves_and_values(tmp_path: Path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with told_to([f"tensorboard:{tmp_path}"]):
        tell_a_search()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [point.step for point in events.Scalars("trial/0")] == [1, 2]
    assert events.Scalars("value")[0].value == pytest.approx(0.75)
    assert events.Scalars("reference/probe (bnstats off)")[0].value == pytest.approx(0.5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")  # mlflow's own
def test_mlflow_reads_one_run_with_values_by_trial(tmp_path: Path):
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with told_to([f"mlflow:{uri}"]):
        tell_a_search()
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("autotune")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.params["budget"] == "1%"
    assert run.data.metrics["value"] == 0.75 and run.data.metrics["trial-0"] == 0.75
    assert run.data.tags["answer"] == "The answer is in r/best" and run.info.status == "FINISHED"


IN_A_PROCESS = """
from autotune.run.trackers import told_to
from tests.run.trackers.test_trackers import tell_a_search
with told_to(["wandb:autotune-test"]):
    tell_a_search()
"""


@pytest.mark.processes
def test_wandb_keeps_a_run_on_this_machine_when_it_is_offline(tmp_path: Path):
    """In a process of its own: its service writes the last of a run when that ends."""
    pytest.importorskip("wandb", reason="wandb is not installed")
    where = {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_SILENT": "true"}
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", IN_A_PROCESS]
    subprocess.run(command, check=True, cwd=root, env={**os.environ, **where})
    (stored,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    content = stored.read_bytes()
    assert b"trial/0" in content and b"The answer is in r/best" in content


@pytest.mark.parametrize("name", [name for name in SINKS.names() if name != "json"])
def test_a_sink_without_its_package_says_how_to_get_it(name: str, monkeypatch: pytest.MonkeyPatch):
    missing = "torch.utils.tensorboard" if name == "tensorboard" else name
    monkeypatch.setitem(sys.modules, missing, None)
    message = rf"pip install 'torch-autotune\[{name}\]'"
    with pytest.raises(DependencyError, match=message), told_to([f"{name}:somewhere"]):
        pass


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("tensorbord:x", UnknownName, "Did you mean 'tensorboard'"),
        ("tensorboard", ConfigError, "NAME:WHERE"),
        ("json:/nowhere/at/all.jsonl", ConfigError, "can be written"),
    ],
)
def test_what_is_no_sink_is_refused(text: str, error: type[Exception], message: str):
    with pytest.raises(error, match=message), told_to([text]):
        pass
