"""Overhead of the search itself: proposals for 200 units, and recording a trial on SQLite.

Each is compared with the same calls of a plain Optuna study with the same sampler and storage, in
alternation in one run. Reported are medians.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import optuna
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from results import table, write_section

from autotune.problem.budget import Budget, Cost
from autotune.problem.job import Job, Progress
from autotune.problem.plan import Choice
from autotune.problem.problem import Problem
from autotune.problem.sampling import random_placement
from autotune.study.driver import Driver, DriverOptions, create
from autotune.study.lease import Lease
from autotune.study.run_folder import RunFolder
from autotune.study.storage import open_storage
from autotune.study.strategies import STRATEGIES
from autotune.study.strategies.base import PREFIX, search_space

GRIDS = {"lr:head": (0.003, 0.01, 0.03), "lr:lowrank": (0.003, 0.01, 0.03)}
BARE: dict[str, Callable[[], BaseSampler]] = {
    "random": lambda: RandomSampler(seed=0),
    "nsga2": lambda: NSGAIISampler(seed=0, population_size=20),
    "tpe": lambda: TPESampler(seed=0, multivariate=True),
    "gp": lambda: GPSampler(seed=0),
}


def problem_of(n_units: int) -> Problem:
    """Problem with five choices per unit and a budget of a tenth of the largest cost."""
    ranks = (1, 2, 4, 8)
    candidates = {
        f"unit{i:03}": {
            Choice.of("lowrank", rank=r): Cost(n := r * (50 + i), n, 4 * n) for r in ranks
        }
        for i in range(n_units)
    }
    total = sum(8 * (50 + i) for i in range(n_units))
    return Problem.of(candidates, Budget(total // 10, total))


def finished(problem: Problem, n: int) -> list[optuna.trial.FrozenTrial]:
    """`n` complete trials of random plans."""
    space, draw, trials = search_space(problem, GRIDS), random.Random(0), []
    for number in range(n):
        plan = random_placement(problem, number)
        params: dict[str, Any] = {PREFIX + unit: plan[unit].label for unit in problem.units}
        params.update({name: draw.choice(grid) for name, grid in GRIDS.items()})
        trials.append(
            optuna.trial.create_trial(params=params, distributions=space, value=draw.random())
        )
    return trials


def proposals(n_units: int, n_trials: int, repeats: int) -> str:
    """Table of milliseconds per proposal in memory, by strategy, for autotune and Optuna."""
    problem = problem_of(n_units)
    space, trials = search_space(problem, GRIDS), finished(problem, n_trials)
    rows = []
    for name in ("random", "nsga2", "qmc", "tpe", "policy", "greedy"):
        ours = optuna.create_study(
            sampler=STRATEGIES.load(name)(problem, GRIDS, seed=0), direction="maximize"
        )
        bare = optuna.create_study(sampler=BARE.get(name, BARE["random"])(), direction="maximize")
        times: dict[str, list[float]] = {"ours": [], "bare": []}
        for study in (ours, bare):
            study.add_trials(trials)
        for _ in range(repeats):
            for kind, study in (("ours", ours), ("bare", bare)):
                began = time.perf_counter()
                trial = study.ask(dict(space))
                times[kind].append(time.perf_counter() - began)
                study.tell(trial, 0.5)
        shown = f"{1000 * median(times['bare']):.0f}" if name in BARE else ""
        rows.append([name, f"{1000 * median(times['ours']):.0f}", shown])
        print(rows[-1], flush=True)
    header = [f"{n_units} units, {n_trials} finished trials", "ms", "the bare sampler, ms"]
    return table(header, rows)


class _Counting:
    """Engine that takes no time."""

    def __call__(self, job: Job) -> Any:
        yield Progress(1, 0.5 + job.number / 1e6, {"accuracy": 0.5}, b"")


def trial_seconds(n_units: int, n_trials: int, name: str) -> str:
    """Milliseconds to ask, record and tell a trial on SQLite, for autotune and Optuna."""
    problem = problem_of(n_units)
    times: dict[str, list[float]] = {"ours": [], "bare": []}
    with TemporaryDirectory() as at:
        folder = RunFolder(Path(at) / "ours")
        create(folder, None, problem, {"identity": {"metric": "accuracy"}})
        options = DriverOptions(name, 0, 1, GRIDS, pruner="none")
        lease = Lease(folder.lease, lambda: None, lambda owner: None)
        other = RunFolder(Path(at) / "bare")
        bare = optuna.create_study(
            storage=open_storage(other, None), sampler=BARE[name](), direction="maximize"
        )
        space = search_space(problem, GRIDS)
        with lease:
            driver = Driver(folder, None, options, lease, trials=n_trials)
            for n in range(n_trials):
                began = time.perf_counter()
                job = driver.next_job()
                if job is not None:
                    for progress in _Counting()(job):
                        driver.report(job, progress)
                    driver.finish(job)
                times["ours"].append(time.perf_counter() - began)
                began = time.perf_counter()
                trial = bare.ask(dict(space))
                trial.report(0.5, 1)
                trial.set_user_attr("record", {"metrics": {"accuracy": 0.5}, "seconds": 0.1})
                bare.tell(trial, 0.5 + n / 1e6)
                times["bare"].append(time.perf_counter() - began)
    driven, plain = (1000 * median(times[kind]) for kind in ("ours", "bare"))
    return f"{n_units} units, {name}|{driven:.1f}|{plain:.1f}|{driven / plain:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--trials", type=int, default=100)
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    import warnings

    warnings.simplefilter("ignore")
    asked = proposals(200, 1000, arguments.repeats)
    rows = [
        trial_seconds(n_units, arguments.trials, name).split("|")
        for n_units in (20, 200)
        for name in ("random", "nsga2", "tpe")
    ]
    header = ["a trial's record on SQLite", "ms", "bare Optuna, ms", "ratio"]
    write_section("Overhead of the search", f"{asked}\n\n{table(header, rows)}")


if __name__ == "__main__":
    main()
