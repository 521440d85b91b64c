"""A search of table lookups that is killed again and again: `python kill_loop.py FOLDER ray 2 30`.

The engine itself counts what it was asked for, in a file beside the study.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TESTS = str(Path(__file__).parents[1])
sys.path.insert(0, TESTS)

from autotune.problem.budget import Budget, Cost  # noqa: E402
from autotune.problem.job import Job, Progress  # noqa: E402
from autotune.problem.plan import Choice  # noqa: E402
from autotune.problem.problem import Problem  # noqa: E402
from autotune.study.backends import BACKENDS  # noqa: E402
from autotune.study.driver import Driver, DriverOptions, create  # noqa: E402
from autotune.study.lease import Lease  # noqa: E402
from autotune.study.reader import Records  # noqa: E402
from autotune.study.run_folder import RunFolder  # noqa: E402
from study.table_engine import STEPS, TableEngine, no_complaint, nothing  # noqa: E402

GRIDS = {"lr:head": (0.01, 0.03), "lr:lowrank": (0.003, 0.01, 0.03), "weight_decay": (0.0,)}


@dataclass
class Counted(TableEngine):
    """Notes every start in a file, in one write, and takes some time for a step."""

    notes: str = ""
    pause: float = 0.1

    def __call__(self, job: Job) -> Iterator[Progress]:
        first = int(job.checkpoint or b"1")
        line = f"{job.number} {job.attempt} {first} {os.getpid()}\n".encode()
        file = os.open(self.notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, line)
        os.close(file)
        for progress in super().__call__(job):
            time.sleep(self.pause)
            yield progress


def problem() -> Problem:
    costs = {rank: Cost(20 * rank, 20 * rank, 80 * rank) for rank in (1, 2, 4)}
    offers = {Choice.of("lowrank", rank=rank): cost for rank, cost in costs.items()}
    return Problem.of({unit: dict(offers) for unit in "abcd"}, Budget(200, 1000, text="200"))


def search(folder: RunFolder, backend: str, workers: int, trials: int) -> None:
    """Begin, or resume what is there."""
    if not folder.config.exists():
        create(folder, None, problem(), {"identity": {"metric": "accuracy"}})
        folder.config.write_text("")
    study = Records(folder, None, is_writable=True).study
    lease = Lease(
        folder.lease,
        lambda: study.user_attrs.get("lease"),
        lambda owner: study.set_user_attr("lease", owner),
    )
    engine = Counted(notes=str(folder.path / "starts"))
    options = DriverOptions(
        "random", 0, STEPS, GRIDS, workers=workers, pruner="none", attempts=10**6
    )
    with lease, opened(backend, engine, workers) as running:
        running.run(Driver(folder, None, options, lease, trials=trials))


def opened(backend: str, engine: Any, workers: int) -> Any:
    make = BACKENDS.load(backend)
    if backend == "ray":
        from autotune.study.backends.ray import Cluster

        environment = {"env_vars": {"PYTHONPATH": TESTS}}
        where = Cluster("local", workers, cpus=0.5, environment=environment)
        return make(engine, where, nothing, nothing, no_complaint)
    return make(engine, workers, nothing) if backend == "processes" else make(engine)


@dataclass
class Outcome:
    """What a kill loop has seen; `faults` is empty when all is well."""

    kills: list[str]
    starts: int
    seconds: float
    faults: list[str]


def kill_loop(
    folder: Path, backend: str, *, workers: int, trials: int, kills: int, seed: int
) -> Outcome:
    """Run a search to its end, the driver or one of its workers killed at random moments."""
    draw, began = random.Random(seed), time.monotonic()
    run = RunFolder(folder)
    command = [sys.executable, __file__, str(folder), backend, str(workers), str(trials)]
    done: list[str] = []
    faults: list[str] = []
    steps: dict[int, int] = {}
    ended: dict[int, int] = {}
    while True:
        process = subprocess.Popen(command, start_new_session=True)
        before = len(starts(run))
        while process.poll() is None and len(starts(run)) == before:
            time.sleep(0.02)
        while len(done) < kills and process.poll() is None:
            time.sleep(draw.uniform(0.1, 1.5))
            victim = draw.choice(["driver", "worker"]) if backend != "inline" else "driver"
            if process.poll() is not None:
                break
            done.append(victim)
            if victim == "driver":
                os.kill(process.pid, signal.SIGKILL)
                break
            with suppress(ProcessLookupError):
                os.kill(starts(run)[-1][3], signal.SIGKILL)
        code = process.wait()
        if run.config.exists():
            faults += look(run, steps, ended)
        if code == 0:
            break
        if code != -signal.SIGKILL:
            faults.append(f"the driver ended with {code}")
            break
    faults += check_end(run, trials)
    return Outcome(done, len(starts(run)), time.monotonic() - began, faults)


def starts(run: RunFolder) -> list[tuple[int, int, int, int]]:
    """(trial, attempt, first step, process) of every start so far."""
    file = run.path / "starts"
    lines = file.read_text().splitlines() if file.exists() else []
    return [tuple(map(int, line.split())) for line in lines]  # type: ignore[misc]


def look(run: RunFolder, steps: dict[int, int], ended: dict[int, int]) -> list[str]:
    """Faults that show between two drivers: progress that is lost, an end that is undone."""
    faults, now = [], starts(run)
    for number, n in ended.items():
        if (again := sum(start[0] == number for start in now)) != n:
            faults.append(f"trial {number} had ended and was started again ({n} → {again})")
    for trial in Records(run, None).study.get_trials(deepcopy=False):
        done = len(trial.intermediate_values)
        if done < steps.get(trial.number, 0):
            faults.append(f"trial {trial.number} went back from {steps[trial.number]} to {done}")
        later = [s[2] for s in now if s[0] == trial.number]
        if later != sorted(later):
            faults.append(f"trial {trial.number} began at the steps {later}")
        steps[trial.number] = done
        if trial.state.is_finished():
            ended.setdefault(trial.number, sum(start[0] == trial.number for start in now))
        elif trial.number in ended:
            faults.append(f"the end of trial {trial.number} was lost")
    return faults


def check_end(run: RunFolder, trials: int) -> list[str]:
    records = Records(run, None).trials
    faults = []
    if [record.number for record in records] != list(range(trials)):
        faults.append(f"the numbers are {[record.number for record in records]}")
    faults += [
        f"trial {r.number} is {r.state_name} with {len(r.curve)} steps"
        for r in records
        if not r.is_complete or len(r.curve) != STEPS
    ]
    if run.lease.exists():
        faults.append("the lease was left")
    return faults


if __name__ == "__main__":
    from study import kill_loop as importable  # workers cannot import what is `__main__` here

    importable.search(RunFolder(Path(sys.argv[1])), sys.argv[2], *map(int, sys.argv[3:5]))
