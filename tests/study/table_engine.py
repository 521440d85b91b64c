"""A fake engine: what a training would give stands in a table made of digests."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from autotune.problem.job import Job, Progress, used

STEPS = 4


def looked_up(job: Job, step: int) -> float:
    """The value of a job after a step: a function of plan, used hyperparameters and seed."""
    rates = json.dumps(used(job.plan, job.hyperparameters), sort_keys=True)
    text = f"{job.plan.digest}:{rates}:{job.seed}:{step}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") / 2**32


@dataclass
class TableEngine:
    """Resumes from a checkpoint as the real engine does: its step is told once more."""

    steps: int = STEPS
    fails: tuple[str, ...] = ()
    """Names of the jobs that raise after their first step."""

    calls: list[tuple[str, int, int]] = field(default_factory=list)
    """(name, attempt, first step told) of every job that was run here."""

    def __call__(self, job: Job) -> Iterator[Progress]:
        first = int(job.checkpoint or b"1")
        self.calls.append((job.name, job.attempt, first))
        for step in range(first, self.steps + 1):
            yield self.progress(job, step)
            if job.name in self.fails:
                raise ValueError(f"{job.name} cannot be\ntrained")

    def progress(self, job: Job, step: int) -> Progress:
        value = looked_up(job, step)
        artifact = f"{job.name}:{job.seed}".encode() if step == self.steps else None
        return Progress(step, value, {"accuracy": value}, str(step).encode(), artifact)

    @property
    def names(self) -> list[str]:
        return [name for name, _, _ in self.calls]


@dataclass
class OnceKilled(TableEngine):
    """Its process is killed with -9 in the middle of one job, once: `mark` remembers it."""

    victim: str = ""
    mark: Path = Path()

    def __call__(self, job: Job) -> Iterator[Progress]:
        for progress in super().__call__(job):
            if job.name == self.victim and progress.step == 3 and not self.mark.exists():
                self.mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            yield progress


@dataclass
class AlwaysKilled(TableEngine):
    """Every process that starts this job is killed."""

    victim: str = ""

    def __call__(self, job: Job) -> Iterator[Progress]:
        if job.name == self.victim:
            os.kill(os.getpid(), signal.SIGKILL)
        yield from super().__call__(job)


@dataclass
class Slow(TableEngine):
    """Writes its process's number into `folder`, and takes its time."""

    folder: Path = Path()

    def __call__(self, job: Job) -> Iterator[Progress]:
        (self.folder / str(os.getpid())).touch()
        for progress in super().__call__(job):
            time.sleep(30)
            yield progress


class NotLoadable:
    """An engine that travels, but cannot be made again at the other end."""

    def __reduce__(self) -> tuple[object, ...]:
        return (_refuse, ("this network lives in one process only",))

    def __call__(self, job: Job) -> Iterator[Progress]:
        raise AssertionError


def _refuse(text: str) -> None:
    raise RuntimeError(text)


def nothing(*_: object) -> None:
    """What a worker does before it has loaded the engine, or with it."""


def no_complaint() -> str:
    """What a node says before the first job."""
    return ""


@dataclass
class Seeing(TableEngine):
    """Its value is the number of the GPU that it was given; -1 for none."""

    def progress(self, job: Job, step: int) -> Progress:
        gpu = float(os.environ.get("CUDA_VISIBLE_DEVICES") or -1)
        measured = super().progress(job, step)
        time.sleep(0.05)
        return Progress(step, gpu, {"pid": os.getpid()}, measured.checkpoint, measured.artifact)
