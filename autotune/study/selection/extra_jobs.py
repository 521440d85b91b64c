"""Trainings in addition to the trials of a study: baselines, repeats with seeds, comparisons.

Like trials, they keep a checkpoint in the run folder, so that `resume` continues them, and are
started again if their worker dies.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from autotune.errors import TrialError
from autotune.problem.job import Decision, Failure, Job, Progress
from autotune.study.backends.base import Backend, JobList
from autotune.study.checkpoint_file import pack, read_checkpoint
from autotune.study.writer import Writer
from autotune.utils import interrupts

Test = Callable[[bytes], Mapping[str, float]]
"""Function that evaluates the content of a delta file on the test part and returns metrics."""


def tested_as(test: Mapping[str, float], metric: str) -> str:
    """Name of the metric to show for the test part: `metric`, or accuracy if that is missing."""
    return metric if metric in test else "accuracy"


class StoredJobs(JobList):
    """Jobs whose progress is kept in the run folder until `forget_jobs`.

    A job that was interrupted continues from its last checkpoint; one that had ended returns its
    result without training again. The note of each file has the values after each epoch (fold).
    """

    def __init__(self, jobs: Sequence[Job], writer: Writer) -> None:
        super().__init__(jobs, attempts=writer.attempts)
        self.writer = writer
        self.waiting = [self._continued(job) for job in jobs]

    def report(self, job: Job, progress: Progress) -> Decision:
        interrupts.check()
        self.writer.lease.check()
        decision = super().report(job, progress)
        if progress.checkpoint:
            folder, note = self.writer.folder, {"curve": self.curves[job.name]}
            folder.write(folder.job_checkpoint(job.name), pack(progress.checkpoint, note))
        return decision

    def _continued(self, job: Job) -> Job:
        unpacked = read_checkpoint(self.writer.folder.job_checkpoint(job.name), job.name)
        if unpacked is None:
            return job
        note, checkpoint = unpacked
        self.curves[job.name] = {int(step): value for step, value in note["curve"].items()}
        return replace(job, checkpoint=checkpoint)


@dataclass(frozen=True)
class Trained:
    """Result of the best of several jobs."""

    job: Job
    last: Progress
    curve: tuple[float, ...]
    """Value after each epoch (fold)."""

    seconds: float
    """Wall-clock time of all jobs."""


def best_job(jobs: Sequence[Job], backend: Backend, writer: Writer) -> Trained:
    """Run jobs and return the one with the best value on validation.

    Raises `TrialError` if all of them fail. Checkpoints are kept until the caller has recorded the
    result and calls `forget_jobs`.
    """
    began = time.monotonic()
    listed = StoredJobs(jobs, writer)
    backend.run(listed)
    ended = [(job, listed.results[job.name]) for job in jobs]
    finished = [(job, result) for job, result in ended if isinstance(result, Progress)]
    if not finished:
        failure = ended[0][1]
        assert isinstance(failure, Failure)
        raise TrialError(f"{jobs[0].name} failed with every learning rate: {failure.text}")
    job, best = max(finished, key=lambda pair: pair[1].value)
    curve = tuple(value for _, value in sorted(listed.curves[job.name].items()))
    return Trained(job, best, curve, time.monotonic() - began)


def forget_jobs(jobs: Sequence[Job], writer: Writer) -> None:
    """Remove the checkpoints of jobs whose results are recorded."""
    writer.folder.drop_job_checkpoints([name for job in jobs for name in _names(job)])


def deliver_whole(job: Job, backend: Backend, writer: Writer) -> bytes:
    """Train a job that was scored by folds on all folds together; return its delta file."""
    whole = replace(job, name=_names(job)[1], whole=True)
    artifact = best_job([whole], backend, writer).last.artifact
    assert artifact is not None
    return artifact


def _names(job: Job) -> tuple[str, str]:
    """Names of a job and of its training on all folds together."""
    return job.name, f"{job.name} whole"
