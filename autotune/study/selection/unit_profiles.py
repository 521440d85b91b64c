"""Fine-tuning profile: each unit alone, over several seeds (SubTuning, arXiv 2302.06354)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import mean, stdev
from typing import Any

from optuna.trial import FrozenTrial

from autotune.problem.grids import Grids
from autotune.problem.job import Failure, Job, Progress
from autotune.problem.plan import FROZEN
from autotune.problem.problem import Problem
from autotune.study.backends.base import Backend
from autotune.study.driver import Driver
from autotune.study.reader import Records
from autotune.study.selection.extra_jobs import StoredJobs, forget_jobs
from autotune.study.selection.finalists import best_plans, repeat_job, repeat_of, seed_values
from autotune.study.selection.imported_trials import adopted
from autotune.study.stages import REPEAT
from autotune.study.trial_record import TrialRecord
from autotune.utils.events import tell, warn


@dataclass(frozen=True)
class ProfileRow:
    """Result of tuning one unit with one choice."""

    unit: str
    """Name of the unit; empty for the empty plan."""

    choice: str
    parameters: int
    values: tuple[float, ...]
    """Values on validation, one per seed."""

    @property
    def mean(self) -> float:
        return mean(self.values)

    @property
    def std(self) -> float:
        """Sample standard deviation over seeds; 0 for one seed."""
        return stdev(self.values) if len(self.values) > 1 else 0.0

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "mean": self.mean, "std": self.std}


def profile_rows(records: Records) -> list[ProfileRow]:
    """Rows of the profile in depth order, the empty plan first, over the seeds they have in common.

    Units that failed are left out. A plan that ran at several learning rates has its best values.
    """
    place = {unit: i for i, unit in enumerate(records.problem.units)}
    complete = best_plans([r for r in records.ranked() if len(r.plan) <= 1], len(records.trials))
    by_seed = [seed_values(records, record) for record in complete]
    common = sorted(set.intersection(*map(set, by_seed))) if by_seed else []
    rows = []
    for record, values in zip(complete, by_seed, strict=True):
        unit, choice = next(iter(record.plan.choices.items()), ("", FROZEN))
        seen = tuple(values[seed] for seed in common)
        rows.append(ProfileRow(unit, choice.label, record.cost.parameters, seen))
    return sorted(rows, key=lambda row: place.get(row.unit, -1))


def repeat_all(driver: Driver, backend: Backend, seeds: int) -> None:
    """Repeat every complete trial with the next `seeds` - 1 seeds, unless that is recorded."""
    if seeds == 1:
        return
    first = driver.options.seed
    records = [r for r in driver.trials if r.is_complete and r.repeat_of is None]
    jobs = {
        repeat_job(record, seed).name: (record, seed)
        for record in records
        for seed in range(first + 1, first + seeds)
        if seed not in driver.repeats(record.number)
    }
    if jobs:
        tell("stage", "Repeats", stage="repeats", total=len(jobs))
        backend.run(_Repeats(driver, jobs))


class _Repeats(StoredJobs):
    """Jobs whose results are recorded as repeats when they end."""

    def __init__(self, driver: Driver, jobs: dict[str, tuple[TrialRecord, int]]) -> None:
        super().__init__([repeat_job(*job) for job in jobs.values()], driver)
        self.jobs = jobs

    def finish(self, job: Job) -> None:
        super().finish(job)
        last = self.results[job.name]
        assert isinstance(last, Progress)
        record, seed = self.jobs[job.name]
        repeat = repeat_of(last, self.seconds[job.name])
        self.writer.record(f"{REPEAT}:{record.number}:{seed}", repeat)
        forget_jobs([job], self.writer)
        tell("repeat-of-finalist", f"{job.name}: {last.value:.4f}", number=record.number, seed=seed)

    def fail(self, job: Job, failure: Failure) -> None:
        super().fail(job, failure)
        forget_jobs([job], self.writer)
        warn(f"{job.name} failed and is left out: {failure.text}")


def as_trials(profile: Records, problem: Problem, grids: Grids) -> list[FrozenTrial]:
    """Complete trials of a profile that another problem's space and grids contain."""
    trials = [
        adopted(
            problem,
            grids,
            record.plan,
            record.hyperparameters,
            value=record.value,
            metrics=record.metrics,
            origin=str(profile.folder.path),
            curve=record.curve,
        )
        for record in profile.trials
        if record.is_complete and record.value is not None
    ]
    return [trial for trial in trials if trial is not None]
