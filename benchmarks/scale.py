"""Time per event, memory and loading time of a driver with 1,000 simulated workers.

Trials of 20 units take random times, some fail and some lose their worker. The driver writes a
record of 1,000 trials, which is multiplied in the database to reach 10,000 and 100,000, and then
runs 1,000 more. `python scale.py 1000 10000` omits the largest.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import optuna
from overhead import GRIDS, problem_of
from results import table, write_section

from autotune.problem.job import Failure, Job, Progress
from autotune.study.driver import Driver, DriverOptions, create
from autotune.study.lease import Lease
from autotune.study.reader import STUDY_NAME, Records
from autotune.study.run_folder import RunFolder
from autotune.study.storage import open_storage
from autotune.study.strategies.base import search_space
from autotune.utils.peak_memory import peak_memory

WORKERS, STEPS, TRIALS = 1000, 4, 1000
FAILS, DIES = 0.01, 0.02
"""Probability per epoch that a trial raises, and that its worker dies."""


def drive(driver: Driver, seed: int) -> tuple[int, float]:
    """Run the driver's trials on simulated workers: (events, the driver's own seconds)."""
    draw, events, seconds = random.Random(seed), 0, 0.0
    waiting: list[tuple[float, int, Job, int]] = []
    now, order, idle = 0.0, 0, WORKERS

    def timed(call: Any, *arguments: Any) -> Any:
        nonlocal events, seconds
        began = time.perf_counter()
        answer = call(*arguments)
        seconds += time.perf_counter() - began
        events += 1
        return answer

    while True:
        while idle and (job := timed(driver.next_job)) is not None:
            first = json.loads(job.checkpoint)["step"] if job.checkpoint else 1
            heapq.heappush(waiting, (now + draw.expovariate(1), order, job, first))
            order, idle = order + 1, idle - 1
        if not waiting:
            return events, seconds
        now, _, job, step = heapq.heappop(waiting)
        if (luck := draw.random()) < FAILS + DIES:
            ended = driver.fail if luck < FAILS else driver.lost
            timed(ended, job, Failure("Simulated", "it failed")) if luck < FAILS else timed(
                ended, job
            )
            idle += 1
            continue
        value = draw.random()
        checkpoint = json.dumps({"step": step}).encode()
        timed(driver.report, job, Progress(step, value, {"accuracy": value}, checkpoint))
        if step == STEPS:
            timed(driver.finish, job)
            idle += 1
        else:
            order += 1
            heapq.heappush(waiting, (now + draw.expovariate(1), order, job, step + 1))


def opened(folder: RunFolder, trials: int) -> tuple[Lease, DriverOptions]:
    lease = Lease(folder.lease, lambda: None, lambda owner: None)
    return lease, DriverOptions("random", 0, STEPS, GRIDS, workers=WORKERS, attempts=10)


def multiply(folder: RunFolder, times: int) -> None:
    """Copy the trials of the record in the database, so that there are `times` as many."""
    tables = {
        "trial_params": "param_name, param_value, distribution_json",
        "trial_values": "objective, value, value_type",
        "trial_intermediate_values": ("step, intermediate_value, intermediate_value_type"),
        "trial_user_attributes": "key, value_json",
        "trial_system_attributes": "key, value_json",
    }
    with closing(sqlite3.connect(folder.database)) as database, database:
        (n,) = database.execute("SELECT count(*) FROM trials").fetchone()
        (first,) = database.execute("SELECT min(trial_id) FROM trials").fetchone()
        for i in range(1, times):
            shift = i * n
            database.execute(
                "INSERT INTO trials (trial_id, number, study_id, state, datetime_start, "
                "datetime_complete) SELECT trial_id + ?, number + ?, study_id, state, "
                "datetime_start, datetime_complete FROM trials WHERE trial_id < ?",
                (shift, shift, first + n),
            )
            for name, columns in tables.items():
                database.execute(
                    f"INSERT INTO {name} (trial_id, {columns}) SELECT trial_id + ?, {columns} "
                    f"FROM {name} WHERE trial_id < ?",
                    (shift, first + n),
                )


def measured(folder: RunFolder, total: int) -> dict[str, float]:
    """Load the record of a study, then run 1,000 more trials; called in a new process."""
    lease, options = opened(folder, total)
    with lease:
        began = time.perf_counter()
        driver = Driver(folder, None, options, lease, trials=total + TRIALS)
        loading = time.perf_counter() - began
        loaded = peak_memory() / 1e9
        events, seconds = drive(driver, total)
        return {
            "events": events,
            "ms": 1000 * seconds / events,
            "loading": loading,
            "GB": loaded,
            "GB in the end": peak_memory() / 1e9,
        }


def bare(folder: RunFolder, total: int) -> dict[str, float]:
    """Measure Optuna's `get_trials` and `ask` on the same record; called in a new process."""
    study = optuna.load_study(
        study_name=STUDY_NAME,
        storage=open_storage(folder, None),
        sampler=optuna.samplers.RandomSampler(seed=0),
    )
    began = time.perf_counter()
    study.get_trials(deepcopy=False)
    loading = time.perf_counter() - began
    loaded = peak_memory() / 1e9
    space = search_space(problem_of(20), GRIDS)
    began, n = time.perf_counter(), 50
    for _ in range(n):
        study.ask(dict(space))
    return {"loading": loading, "GB": loaded, "ask": 1000 * (time.perf_counter() - began) / n}


def in_a_process(function: str, folder: RunFolder, total: int) -> dict[str, float]:
    command = [sys.executable, __file__, function, str(folder.path), str(total)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def scale(totals: list[int]) -> str:
    rows = []
    with TemporaryDirectory() as at:
        folder = RunFolder(Path(at) / "run")
        create(folder, None, problem_of(20), {"identity": {"metric": "accuracy"}})
        in_a_process("measured", folder, 0)
        for total in sorted(totals):
            n = len(Records(folder, None).study.get_trials(deepcopy=False)) if total <= 1000 else 0
            if not n:
                prune_to(folder, TRIALS)
                multiply(folder, total // TRIALS)
            ours = in_a_process("measured", folder, total)
            prune_to(folder, total)
            plain = in_a_process("bare", folder, total)
            prune_to(folder, total)
            rows.append(
                [
                    f"{total:,}",
                    f"{ours['ms']:.1f}",
                    f"{plain['ask']:.0f}",
                    f"{ours['loading']:.1f}",
                    f"{plain['loading']:.1f}",
                    f"{ours['loading'] / plain['loading']:.2f}",
                    f"{ours['GB']:.2f}",
                    f"{plain['GB']:.2f}",
                ]
            )
            print(rows[-1], ours, flush=True)
    header = ["trials", "ms per event", "bare `ask`, ms", "load, s", "bare, s", "ratio"]
    return (
        f"{WORKERS:,} simulated workers, 20 units, `random`, SQLite; {TRIALS:,} trials of {STEPS} "
        "epochs are run in addition to the record. An event is a call of the driver: the request "
        "for a job, a progress or an end. Bare: Optuna's `ask` and `get_trials` on the same file."
        "\n\n" + table([*header, "GB", "bare, GB"], rows)
    )


def prune_to(folder: RunFolder, n: int) -> None:
    """Delete all trials except the first `n`."""
    with closing(sqlite3.connect(folder.database)) as database, database:
        (first,) = database.execute("SELECT min(trial_id) FROM trials").fetchone()
        names = ["params", "values", "intermediate_values", "user_attributes", "system_attributes"]
        for name in [f"trial_{name}" for name in names] + ["trials"]:
            database.execute(f"DELETE FROM {name} WHERE trial_id >= ?", (first + n,))


def main() -> None:
    if sys.argv[1:2] and sys.argv[1] in ("measured", "bare"):
        function = measured if sys.argv[1] == "measured" else bare
        print(json.dumps(function(RunFolder(Path(sys.argv[2])), int(sys.argv[3]))))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("totals", nargs="*", type=int, default=[1000, 10_000, 100_000])
    write_section("Scale of one driver", scale(parser.parse_args().totals))


if __name__ == "__main__":
    main()
