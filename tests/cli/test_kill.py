"""A search that is killed at any moment and resumed comes to the end it would have come to."""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autotune.errors import Interrupted
from autotune.run.notebook import Study
from autotune.session.api import resume
from autotune.utils.events import event_of, log

from .conftest import SCRIPT

HOW = ("--trials", "3", "--epochs", "2", "--no-references", "--quiet")
KILLS = 2


def killed(command: tuple[object, ...], seconds: float) -> bool:
    """Runs the command and kills it with -9; False when it ended on its own before."""
    process = subprocess.Popen(
        [str(SCRIPT), *map(str, command)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        _, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return True
    assert process.returncode == 0, errors.decode()
    return False


def is_begun(folder: Path) -> bool:
    """The configuration is the last that is written before the first session."""
    return (folder / "config.yaml").is_file()


def seen(study: Study) -> list[tuple[Any, ...]]:
    return [
        (t.number, t.state, str(t.plan), dict(t.hyperparameters), t.value, t.curve, t.repeat_of)
        for t in study.trials
    ]


def answer(study: Study) -> dict[str, Any]:
    """All of the end that is no time."""
    assert study.final is not None
    final = replace(study.final, metrics={}, against=())
    policy = study.policy and replace(study.policy, seconds=0.0)
    return {"final": final, "preparation": study.preparation, "policy": policy}


def learned(folder: Path) -> bytes | None:
    """The policy that was saved."""
    file = folder / "best" / "policy.safetensors"
    return file.read_bytes() if file.is_file() else None


def started_after_their_end(folder: Path) -> list[int]:
    """Numbers of the trials that the log says were started although they had ended."""
    ended: Counter[int] = Counter()
    again = []
    for line in (folder / "log.jsonl").read_text().splitlines():
        event = json.loads(line)
        if event["kind"] == "start" and ended[event["number"]]:
            again.append(event["number"])
        ended[event.get("number", -1)] += event["kind"] == "end"
    return again


@pytest.mark.processes
def test_killed_and_resumed_is_as_if_nothing_had_been(output, tmp_path):
    began = time.monotonic()
    output("search", *HOW, "--out", tmp_path / "whole")
    whole = time.monotonic() - began
    seed = random.SystemRandom().randrange(10**6)
    draw = random.Random(seed)
    early = 0.7  # the next search may be quicker than the one that was timed
    moments = [3 + early * (whole - 3) * (i + draw.random()) / KILLS for i in range(KILLS)]
    summary = f"seed {seed}: killed after {[round(m, 1) for m in moments]} s of {whole:.1f} s"
    folder, finished = tmp_path / "killed", set()
    kills = 0
    for moment in moments:
        command = ("resume", folder) if is_begun(folder) else ("search", *HOW, "--out", folder)
        kills += killed(command, moment)
        if is_begun(folder):
            now = {t.number for t in Study(folder).trials if t.state.is_finished()}
            assert finished <= now, f"a finished trial was lost. {summary}"
            finished = now
    command = ("resume", folder) if is_begun(folder) else ("search", *HOW, "--out", folder)
    output(*command)
    study = Study(folder)
    assert kills, summary
    assert seen(study) == seen(Study(tmp_path / "whole")), summary
    assert answer(study) == answer(Study(tmp_path / "whole")), summary
    assert learned(folder) == learned(tmp_path / "whole"), summary
    assert learned(folder) is not None
    assert started_after_their_end(folder) == [], summary
    assert not list(folder.rglob("trial.checkpoint")), summary
    assert not (folder / "lease.json").exists(), summary
    assert not (folder / "supernet.checkpoint").exists(), summary


class Interrupting(logging.Handler):
    """Ctrl-C at the start of a trial."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def emit(self, record: logging.LogRecord) -> None:
        event = event_of(record)
        if event and (event.kind, event.fields.get("number")) == ("start", self.number):
            raise KeyboardInterrupt


@pytest.mark.slow
def test_a_longer_search_that_is_interrupted_has_no_answer_until_it_is_resumed(finished, tmp_path):
    """The best of fewer trials is not passed off as the best of more."""
    last = len(Study(finished).trials) + 1
    folder, handler = tmp_path / "longer", Interrupting(last)
    shutil.copytree(finished, folder)
    log.addHandler(handler)
    try:
        with pytest.raises(Interrupted, match=f"autotune resume {folder}"):
            resume(folder, trials=5)
    finally:
        log.removeHandler(handler)
    assert Study(folder).state == "interrupted"
    assert not Study(folder).trials[last].state.is_finished(), "all of them have been asked for"
    study = resume(folder)
    assert study.state == "complete"
    assert len([trial for trial in study.trials if not trial.baseline]) == 5
    assert all(trial.state.is_finished() for trial in study.trials)
