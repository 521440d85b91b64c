"""What a Ray worker is: the engine, made once in its process, runs one job after another."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator

from autotune.errors import WorkerError
from autotune.problem.job import Decision, Failure, Job, Progress, RunsJob
from autotune.study.backends.base import told
from autotune.study.backends.pickling import Packed, refusal, unpacked

Message = Progress | Failure | None
"""A job's progress, its failure, or that it ended."""

Ready = Callable[[], None]
Arrived = Callable[[RunsJob], None]


class Resident:
    """An actor. Each call runs the engine to its next message."""

    def __init__(self, content: Packed, ready: Ready, arrived: Arrived) -> None:
        self._messages: Generator[Progress | Failure, None, None] | None = None
        self._refusal: WorkerError | None = None
        try:
            ready()
            self._engine = unpacked(content)
            arrived(self._engine)
        except Exception as error:
            self._refusal = refusal(error)

    def where(self) -> str | WorkerError:
        """Once the engine is there: process, machine and GPUs; or why it could not be loaded."""
        devices = os.environ.get("CUDA_VISIBLE_DEVICES")
        place = f"process {os.getpid()} on {os.uname().nodename}"
        return self._refusal or (f"{place}, GPU {devices}" if devices else place)

    def begin(self, job: Job) -> Message:
        """Start a job; its first message."""
        self._messages = told(self._engine, job)
        return next(self._messages, None)

    def go_on(self, decision: Decision) -> Message:
        """The job's next message; after a stop what the engine opened is put back, and it ended."""
        assert self._messages is not None
        if decision is Decision.STOP:
            self._messages.close()
        return next(self._messages, None)
