"""Ray actor that keeps an engine in its process and runs one job after another."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator

from autotune.errors import WorkerError
from autotune.problem.job import Decision, Failure, Job, Progress, RunsJob
from autotune.study.backends.base import messages
from autotune.study.backends.pickling import Packed, refusal, unpacked

Message = Progress | Failure | None
"""Progress of a job, its failure, or None when it has ended."""

Ready = Callable[[], None]
"""Prepares the process of a worker before the engine is loaded."""

Arrived = Callable[[RunsJob], None]
"""Adapts the engine to the machine it was loaded on."""


class Resident:
    """Actor whose calls each run the engine up to its next message."""

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
        """Process, machine and GPUs of the worker, or the error if the engine did not load."""
        devices = os.environ.get("CUDA_VISIBLE_DEVICES")
        place = f"process {os.getpid()} on {os.uname().nodename}"
        return self._refusal or (f"{place}, GPU {devices}" if devices else place)

    def begin(self, job: Job) -> Message:
        """Start a job and return its first message."""
        self._messages = messages(self._engine, job)
        return next(self._messages, None)

    def go_on(self, decision: Decision) -> Message:
        """Continue the job and return its next message.

        After `Decision.STOP` the generator is closed, so that the engine releases what it opened,
        and the message is None.
        """
        assert self._messages is not None
        if decision is Decision.STOP:
            self._messages.close()
        return next(self._messages, None)
