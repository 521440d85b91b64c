"""Backend `inline`: jobs run one after another in this process."""

from __future__ import annotations

from contextlib import closing

from autotune.problem.job import RunsJob
from autotune.study.backends.base import Backend, Source, deliver, messages
from autotune.utils.timings import timed


class InlineBackend(Backend):
    """Runs one job at a time on the engine of the driver."""

    def __init__(self, engine: RunsJob) -> None:
        self.engine = engine

    def run(self, source: Source) -> None:
        while (job := source.next_job()) is not None:
            with closing(messages(self.engine, job)) as progresses:
                deliver(source, job, timed("training", progresses))
