"""Backend `processes`: jobs run in worker processes on this machine, which keep the engine."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from autotune.errors import WorkerError
from autotune.problem.job import Decision, Failure, Job, Progress, RunsJob
from autotune.study.backends.base import Backend, Source, messages, pass_on
from autotune.study.backends.pickling import Packed, packed, refusal, unpacked
from autotune.utils.interrupts import ignore, uninterrupted
from autotune.utils.timings import spent


@dataclass(eq=False)
class _Worker:
    process: SpawnProcess
    pipe: Connection
    job: Job | None = None

    def send(self, message: Any) -> None:
        with suppress(OSError):
            self.pipe.send(message)


class ProcessBackend(Backend):
    """Runs jobs in `workers` processes, each of which unpickles its copy of the engine once.

    `ready` is called in each worker with its index, before the engine is loaded: it imports the
    user's sources, sets the number of threads and chooses a device. If a worker dies, its job is
    reported as lost and the worker is replaced.
    """

    def __init__(self, engine: RunsJob, workers: int, ready: Callable[[int], None]) -> None:
        self.content = packed(engine)
        self.ready = ready
        self.workers: list[_Worker] = []
        try:
            for at in range(workers):
                self.workers.append(self._start(at))
        except BaseException:  # Ctrl-C, too: nobody else knows of those that run
            self.close()
            raise

    def run(self, source: Source) -> None:
        self._hand_out(source)
        while busy := [worker for worker in self.workers if worker.job is not None]:
            for pipe in self._answering(busy):
                worker = next(w for w in busy if w.pipe is pipe)
                self._hear(worker, source)
            self._hand_out(source)

    def _answering(self, busy: Sequence[_Worker]) -> list[Any]:
        with spent("workers"):
            return wait([worker.pipe for worker in busy])

    def close(self) -> None:
        for worker in self.workers:
            worker.pipe.close()
        for worker in self.workers:
            worker.process.join(timeout=5)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()

    def _hand_out(self, source: Source) -> None:
        for worker in self.workers:
            if worker.job is None and (job := source.next_job()) is not None:
                worker.job = job
                worker.send(job)

    def _hear(self, worker: _Worker, source: Source) -> None:
        job = worker.job
        assert job is not None
        try:
            message: Progress | Failure | WorkerError | None = worker.pipe.recv()
        except (EOFError, OSError):
            self._replace(worker, source, job)
            return
        if isinstance(message, WorkerError):
            raise message
        if not isinstance(message, Progress):
            worker.job = None
        if (decision := pass_on(source, job, message)) is not None:
            worker.send(decision)

    def _replace(self, worker: _Worker, source: Source, job: Job) -> None:
        worker.process.join(timeout=5)
        at = self.workers.index(worker)
        self.workers[at] = self._start(at)
        worker.pipe.close()
        source.lost(job)

    def _start(self, at: int) -> _Worker:
        context = multiprocessing.get_context("spawn")
        driver_end, worker_end = context.Pipe()
        arguments = (worker_end, partial(self.ready, at), self.content)
        process = context.Process(target=_work, args=arguments)
        _start_uninterrupted(process)
        # Only the worker may hold its end: otherwise its death would not close the pipe.
        worker_end.close()
        return _Worker(process, driver_end)


def _start_uninterrupted(process: SpawnProcess) -> None:
    """Start a process that no Ctrl-C ends while it loads, though it reaches the whole group."""
    if sys.platform != "win32":
        resource_tracker.ensure_running()  # Python 3.11 unblocks signals when it starts this
    with uninterrupted():
        process.start()


def _work(pipe: Connection, ready: Callable[[], None], content: Packed) -> None:
    ignore()  # the driver alone decides what happens to the workers
    threading.Thread(target=_end_with_driver, daemon=True).start()
    try:
        ready()
        engine = unpacked(content)
    except Exception as error:
        pipe.send(refusal(error))
        return
    try:
        while True:
            _run(pipe, engine, pipe.recv())
    except (EOFError, OSError):
        return


def _run(pipe: Connection, engine: RunsJob, job: Job) -> None:
    with closing(messages(engine, job)) as progresses:
        for progress in progresses:
            pipe.send(progress)
            if isinstance(progress, Failure):
                return
            if pipe.recv() is Decision.STOP:
                break
    pipe.send(None)


def _end_with_driver() -> None:
    """Exit once the driver has died, even in the middle of an epoch; runs in a thread."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
