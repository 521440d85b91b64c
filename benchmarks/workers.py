"""Overhead and speed-up of workers: time of an empty trial, and two workers against one.

All workers are warm: a first run of two jobs does not count.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import optuna
from overhead import GRIDS, problem_of
from results import table, write_section

from autotune.problem.job import Job, Progress
from autotune.problem.plan import Choice, Plan
from autotune.run.settings import read_settings
from autotune.session.setup import prepare_search, released
from autotune.session.workers import open_backend
from autotune.study.backends import BACKENDS
from autotune.study.backends.base import Backend, JobList
from autotune.study.backends.ray import Cluster
from autotune.study.driver import Driver, DriverOptions, create
from autotune.study.lease import Lease
from autotune.study.run_folder import RunFolder

TRIALS, SWEEP = 200, 16


class Trivial:
    """Engine with one epoch that takes no time."""

    def __call__(self, job: Job) -> Iterator[Progress]:
        yield Progress(1, job.seed / 1e6, {"accuracy": 0.5}, b"")


def nothing(*_: object) -> None:
    """Do nothing before a worker starts."""


def no_complaint() -> str:
    return ""


def opened(name: str) -> Backend:
    arguments: dict[str, tuple[Any, ...]] = {
        "inline": (),
        "processes": (1, nothing),
        "ray": (Cluster("local", 1), nothing, nothing, no_complaint),
    }
    backend: Backend = BACKENDS.load(name)(Trivial(), *arguments[name])
    return backend


def jobs(n: int) -> JobList:
    return JobList([Job(f"job {i}", Plan(), {}, seed=i) for i in range(n)])


def per_trial(name: str) -> list[str]:
    """Milliseconds of an empty trial without a study, and recorded in a study on SQLite."""
    with opened(name) as backend, TemporaryDirectory() as at:
        backend.run(jobs(2))
        began = time.perf_counter()
        backend.run(jobs(TRIALS))
        alone = (time.perf_counter() - began) / TRIALS
        folder = RunFolder(Path(at))
        create(folder, None, problem_of(20), {"identity": {"metric": "accuracy"}})
        with Lease(folder.lease, lambda: None, lambda owner: None) as lease:
            options = DriverOptions("random", 0, 1, GRIDS, pruner="none")
            driver = Driver(folder, None, options, lease, trials=TRIALS)
            began = time.perf_counter()
            backend.run(driver)
            recorded = (time.perf_counter() - began) / TRIALS
    return [name, f"{1000 * alone:.1f}", f"{1000 * recorded:.1f}"]


def sweep(backend: str, workers: int) -> float:
    """Seconds of `SWEEP` equal trainings on the digits, with one thread per worker."""
    settings = read_settings({"backend": backend, "workers": workers, "epochs": 6})
    with released(prepare_search(settings, settings.backbone, settings.task)) as setup:
        plan = Plan({"layer1.0": Choice.of("lowrank", rank=1)})
        rates = {"lr:head": 0.003, "lr:lowrank": 0.01, "weight_decay": 0.0}
        listed = [Job(f"job {i}", plan, rates, seed=i) for i in range(SWEEP)]
        with open_backend(setup) as running:
            running.run(JobList(listed[:2]))
            began = time.perf_counter()
            running.run(JobList(listed))
            return time.perf_counter() - began


def main() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    costs = [per_trial(name) for name in ("inline", "processes", "ray")]
    print(costs, flush=True)
    rows = []
    for backend in ("processes", "ray"):
        # Ray for one worker, too: a single worker of `processes` would run in the driver, with
        # two threads.
        pairs = [(sweep("ray", 1), sweep(backend, 2)) for _ in range(3)]
        one, two = (median(times) for times in zip(*pairs, strict=True))
        rows.append([backend, f"{one:.1f}", f"{two:.1f}", f"{two / one:.2f}"])
        print(rows[-1], flush=True)
    first = ["empty trial", "ms", "with its record on SQLite, ms"]
    second = [f"{SWEEP} equal trainings", "one worker, s", "two workers, s", "ratio"]
    write_section(
        "Workers",
        f"{table(first, costs)}\n\nOne thread per worker, medians of three, in alternation:\n\n"
        f"{table(second, rows)}",
    )


if __name__ == "__main__":
    import workers  # workers cannot unpickle classes of this process's `__main__`

    workers.main()
