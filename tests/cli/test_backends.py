"""Searches on Ray from the command line: begun here, gone on with there, ended by signals."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from autotune.backbones.sources.digits import cache_file
from autotune.run.notebook import Study

from .conftest import SCRIPT

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # Ray's own sockets and log files
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

HOW = ("--epochs", 2, "--no-references", "--strategy", "random", "--bnstats", "off", "--quiet")
RAY = ("--backend", "ray", "--address", "local")
"""A cluster of its own: `auto` would find that of another test."""


@pytest.mark.ray
def test_begun_here_continued_on_ray_and_finished_here(output, tmp_path, monkeypatch):
    """Each session adds to one table, which is that of a search in one process without a cache."""
    cache = tmp_path / "cache"
    cache.mkdir()
    shutil.copy(cache_file(), cache)
    monkeypatch.setenv("AUTOTUNE_CACHE", str(cache))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as Ray's workers have it
    folder, whole = tmp_path / "moving", tmp_path / "whole"
    keep_nothing = ("--cache-memory", 0, "--cache-disk", 0)
    how = (*HOW, "--seed", 3)  # trial 3, on Ray, leaves the first unit frozen
    output("search", *how, "--trials", 5, *keep_nothing, "--out", whole)
    output("search", *how, "--trials", 2, "--out", folder)
    assert not list((cache / "trunk").glob("*.safetensors"))
    output("resume", folder, "--trials", 4, *RAY, "--workers", 2)
    assert list((cache / "trunk").glob("*.safetensors")), "workers on Ray share what is kept"
    output("resume", folder, "--trials", 5, "--backend", "inline", "--workers", 1)
    assert table(folder) == table(whole)
    study = Study(folder)
    assert [t.number for t in study.trials] == [0, 1, 2, 3, 4]
    assert all(t.state.is_finished() for t in study.trials)
    assert study.state == "complete"
    assert (study.settings.backend, study.settings.workers) == ("inline", 1)
    events = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert sum(event["kind"] == "worker" for event in events) == 2


def table(folder: Path) -> list[tuple[object, ...]]:
    return [(t.number, str(t.plan), t.value, t.curve) for t in Study(folder).trials]


@pytest.mark.ray
def test_a_file_of_the_user_s_travels_with_the_search(output, tmp_path):
    """Workers run in another folder and have no such file; it is shipped, as its helper is not."""
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "class Block(nn.Sequential):\n"
        "    pass\n"
        "def network():\n"
        "    torch.manual_seed(0)\n"
        "    return nn.Sequential(Block(nn.Linear(8, 16), nn.ReLU()), nn.Linear(16, 2))\n"
    )
    draw = np.random.default_rng(0)
    x = draw.normal(size=(120, 8)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x_train=x, y_train=(x[:, 0] > 0).astype(np.int64))
    folder = tmp_path / "run"
    source = ("--backbone", f"python:{tmp_path / 'mine.py'}:network")
    data = ("--task", f"npz:{tmp_path / 'data.npz'}", "--budget", "60%", "--trials", 3)
    output("search", *HOW, *source, *data, *RAY, "--workers", 1, "--out", folder)
    assert Study(folder).state == "complete"


@pytest.mark.processes
@pytest.mark.parametrize(
    ("backend", "workers", "ending"),
    [
        ("inline", 1, signal.SIGINT),
        ("processes", 2, signal.SIGTERM),
        pytest.param("ray", 2, signal.SIGTERM, marks=pytest.mark.ray),
    ],
)
def test_a_signal_ends_a_search_within_ten_seconds(tmp_path, backend, workers, ending):
    """What runs has its checkpoint, the line to resume is printed, and it continues."""
    folder = tmp_path / "run"
    where = RAY if backend == "ray" else ("--backend", backend)
    command = map(str, ["search", *HOW, "--epochs", 200, "--out", folder])
    process = subprocess.Popen(
        [str(SCRIPT), *command, *where, "--workers", str(workers)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=heed_interrupts,
    )
    try:
        wait_for(lambda: list(folder.glob("trials/*/trial.checkpoint")), process)
        began = time.monotonic()
        os.kill(process.pid, ending)
        _, errors = process.communicate(timeout=30)
        assert time.monotonic() - began < 10
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert f"autotune resume {folder}" in errors
    assert list(folder.glob("trials/*/trial.checkpoint"))
    assert not (folder / "lease.json").exists()
    assert Study(folder).state == "interrupted"


def heed_interrupts() -> None:
    """These tests may themselves run in the background, where Ctrl-C is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_for(holds, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 120
    while not holds():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end, "the search did not come so far within two minutes"
        time.sleep(0.1)


def test_what_only_ray_understands_is_refused_elsewhere(call):
    code, _, errors = call("search", "--address", "auto")
    assert code == 2
    assert "address is for the backend ray; give --backend ray" in errors
    code, _, errors = call("search", "--backend", "inline", "--workers", "2")
    assert code == 2
    assert "inline is one worker" in errors
    code, _, errors = call("search", "--disk", "much")
    assert code == 2
    assert "500kB, 300MB or 2GB, got 'much'" in errors


@pytest.mark.ray
def test_a_cluster_that_does_not_answer_is_reported(call, tmp_path):
    where = ("--backend", "ray", "--address", "127.0.0.1:1")
    code, _, errors = call("search", *HOW, *where, "--out", tmp_path / "r")
    assert code == 1
    assert "A Ray cluster must answer at --address" in errors
    assert len(errors.strip().splitlines()) == 1


def test_images_are_carried_to_nodes_that_lack_them(tmp_path):
    """With `--ship-data` the same examples, and no file is needed any more."""
    from PIL import Image

    from autotune.backbones.inputs import InputDescription
    from autotune.tasks import imagefolder

    draw = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "all" / name).mkdir(parents=True)
        for i in range(5):
            pixels = draw.integers(0, 255, (9, 9, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "all" / name / f"{i}.png")
    input = InputDescription(size=(8, 8), channels=3, mean=(0, 0, 0), std=(1, 1, 1))
    try:
        before, imagefolder.IN_MEMORY = imagefolder.IN_MEMORY, 0
        task = imagefolder.load(str(tmp_path / "all"), input)
    finally:
        imagefolder.IN_MEMORY = before
    carried = task.carried().split(0)
    task = task.split(0)
    assert len(task.train.files()) == 10
    assert not carried.train.files()
    shown = [task.train.inputs[i].clone() for i in range(len(task.train))]
    for file in Path(tmp_path / "all").rglob("*.png"):
        file.unlink()
    assert all((carried.train.inputs[i] == shown[i]).all() for i in range(len(shown)))
