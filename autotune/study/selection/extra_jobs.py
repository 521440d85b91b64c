"""Trainings beside the study's trials: the best of some jobs, and what is recorded of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from autotune.errors import TrialError
from autotune.problem.job import Failure, Job, Progress
from autotune.study.backends.base import Backend, JobList

Test = Callable[[bytes], Mapping[str, float]]
"""Metrics of a delta file on the test part."""


def told_of(last: Progress) -> dict[str, Any]:
    """What is recorded of a training that ended."""
    folds = {"folds": list(last.folds)} if last.folds else {}
    return {"value": last.value, "metrics": dict(last.metrics), **folds}


def tested_as(test: Mapping[str, float], metric: str) -> str:
    """What is told of the test part: the study's metric, or accuracy where it has none."""
    return metric if metric in test else "accuracy"


@dataclass(frozen=True)
class Trained:
    """The best of some jobs."""

    job: Job
    last: Progress
    curve: list[float]
    """Value after each epoch (fold)."""

    seconds: float
    """Of all of them."""


def best_job(jobs: list[Job], backend: Backend) -> Trained:
    """The job with the best value on validation; `TrialError` when all failed."""
    began, listed = time.monotonic(), JobList(jobs)
    backend.run(listed)
    ended = [(job, listed.results[job.name]) for job in jobs]
    finished = [(job, r) for job, r in ended if isinstance(r, Progress)]
    if not finished:
        failure = ended[0][1]
        assert isinstance(failure, Failure)
        raise TrialError(f"{jobs[0].name} failed with every learning rate: {failure.text}")
    job, best = max(finished, key=lambda pair: pair[1].value)
    curve = [value for _, value in sorted(listed.curves[job.name].items())]
    return Trained(job, best, curve, time.monotonic() - began)


def deliver_whole(job: Job, backend: Backend) -> bytes:
    """The delta file of a job that was scored by folds: trained once more on all of them."""
    whole = replace(job, name=f"{job.name} whole", whole=True)
    artifact = best_job([whole], backend).last.artifact
    assert artifact is not None
    return artifact
