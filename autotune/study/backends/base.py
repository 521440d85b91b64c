"""Base class of backends, and the sources that supply them with jobs."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from autotune.problem.job import ATTEMPTS, Decision, Failure, Job, Progress, RunsJob


class Source(Protocol):
    """Supplies jobs and receives their progress: the driver of a study, or a list."""

    def next_job(self) -> Job | None:
        """Next job to run; None if there is none at present."""

    def report(self, job: Job, progress: Progress) -> Decision:
        """Record the progress of an epoch and decide whether the job continues."""

    def finish(self, job: Job) -> None:
        """Record that a job completed or was stopped."""

    def fail(self, job: Job, failure: Failure) -> None:
        """Record that a job raised an error."""

    def lost(self, job: Job) -> None:
        """Take back a job whose worker died."""


class Backend(ABC):
    """Runs the jobs of a source until it supplies no more and all have ended.

    Law: every job is reported as finished, failed or lost exactly once; after `Decision.STOP` it
    runs no further epoch.
    """

    @abstractmethod
    def run(self, source: Source) -> None:
        """Run all jobs of a source."""

    def close(self) -> None:
        """Release workers and other resources that the backend keeps between runs."""

    def __enter__(self) -> Backend:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class JobList:
    """Source of a fixed list of jobs, such as baselines.

    A job whose worker dies is started again, up to `attempts` times in total. `results` maps the
    name of each job to its last progress or its failure, `curves` to its values by epoch (or fold),
    and `seconds` to its run time.
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


def messages(engine: RunsJob, job: Job) -> Generator[Progress | Failure, None, None]:
    """Progress of a job as the engine yields it; an exception becomes a final `Failure`."""
    try:
        yield from engine(job)
    except Exception as error:
        yield Failure.of(error)


def pass_on(source: Source, job: Job, message: Progress | Failure | None) -> Decision | None:
    """Pass a job's message to its source, and return the source's decision.

    The message None means that the job has ended; then, and after a failure, None is returned.
    """
    if isinstance(message, Progress):
        return source.report(job, message)
    if isinstance(message, Failure):
        source.fail(job, message)
    else:
        source.finish(job)
    return None


def deliver(source: Source, job: Job, progresses: Iterator[Progress | Failure]) -> None:
    """Pass messages of a job to its source until the job ends or is stopped."""
    for progress in progresses:
        decision = pass_on(source, job, progress)
        if decision is None:
            return
        if decision is Decision.STOP:
            break
    pass_on(source, job, None)
