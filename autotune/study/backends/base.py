"""What a backend is, and whom it asks for jobs."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from autotune.problem.job import ATTEMPTS, Decision, Failure, Job, Progress, RunsJob


class Source(Protocol):
    """Gives jobs and takes what becomes of them: a study's driver, or a list."""

    def next_job(self) -> Job | None: ...

    def report(self, job: Job, progress: Progress) -> Decision: ...

    def finish(self, job: Job) -> None: ...

    def fail(self, job: Job, failure: Failure) -> None: ...

    def lost(self, job: Job) -> None: ...


class Backend(ABC):
    """Runs a source's jobs until it has none and all have ended.

    Law: every job is finished, failed or lost exactly once; after `Decision.STOP` it runs no
    further epoch.
    """

    @abstractmethod
    def run(self, source: Source) -> None:
        """Run every job of the source."""

    def close(self) -> None:
        """End what the backend keeps between runs."""

    def __enter__(self) -> Backend:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class JobList:
    """Some jobs next to the study's trials; one whose worker dies is started `attempts` times.

    `results` has the last progress or the failure of each, `curves` its value after each epoch
    (fold), `seconds` how long it ran.
    """

    def __init__(self, jobs: Sequence[Job], *, attempts: int = ATTEMPTS) -> None:
        self.waiting, self.attempts = list(jobs), attempts
        self.seconds: dict[str, float] = {job.name: 0.0 for job in jobs}
        self._began: dict[str, float] = {}
        self.results: dict[str, Progress | Failure] = {}
        self.curves: dict[str, dict[int, float]] = {job.name: {} for job in jobs}
        self._last: dict[str, Progress] = {}

    def next_job(self) -> Job | None:
        if not self.waiting:
            return None
        job = self.waiting.pop(0)
        self._began[job.name] = time.monotonic()
        return job

    def report(self, job: Job, progress: Progress) -> Decision:
        self._last[job.name] = progress
        self.curves[job.name][progress.step] = progress.value
        return Decision.CONTINUE

    def finish(self, job: Job) -> None:
        self.results[job.name] = self._last[job.name]
        self._clock(job)

    def fail(self, job: Job, failure: Failure) -> None:
        self.results[job.name] = failure
        self._clock(job)

    def lost(self, job: Job) -> None:
        self._clock(job)
        if job.attempt + 1 >= self.attempts:
            text = f"its worker died {self.attempts} times"
            self.results[job.name] = Failure("WorkerError", text)
            return
        last = self._last.get(job.name)
        checkpoint = last.checkpoint if last and last.checkpoint else job.checkpoint
        self.waiting.append(replace(job, attempt=job.attempt + 1, checkpoint=checkpoint))

    def _clock(self, job: Job) -> None:
        self.seconds[job.name] += time.monotonic() - self._began.pop(job.name)


def told(engine: RunsJob, job: Job) -> Generator[Progress | Failure, None, None]:
    """The engine's progress and, when it raises, the failure as the last."""
    try:
        yield from engine(job)
    except Exception as error:
        yield Failure.of(error)


def pass_on(source: Source, job: Job, message: Progress | Failure | None) -> Decision | None:
    """Tell the source what became of its job; the decision, or None when the job has ended."""
    if isinstance(message, Progress):
        return source.report(job, message)
    if isinstance(message, Failure):
        source.fail(job, message)
    else:
        source.finish(job)
    return None


def deliver(source: Source, job: Job, progresses: Iterator[Progress | Failure]) -> None:
    """Pass a job's progress to its source until it ends or is stopped."""
    for progress in progresses:
        decision = pass_on(source, job, progress)
        if decision is None:
            return
        if decision is Decision.STOP:
            break
    pass_on(source, job, None)
