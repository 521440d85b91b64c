"""Driver of a study: all trials of one search, in an Optuna study that only the driver writes."""

from __future__ import annotations

import time
from bisect import insort
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from autotune.errors import LeaseError, StudyExists
from autotune.problem.grids import Grids
from autotune.problem.job import ATTEMPTS, Decision, Failure, Job, Progress
from autotune.problem.knapsack import Scores
from autotune.problem.plan import Plan
from autotune.problem.problem import Problem
from autotune.study.cached_storage import Mirror, uncollected
from autotune.study.checkpoint_file import pack, read_checkpoint
from autotune.study.lease import Lease, holder
from autotune.study.pareto import front, measured_by, objective_price, part_of, trial_price
from autotune.study.pruners import PRUNERS, Priced, choose_pruner
from autotune.study.reader import STUDY_FORMAT, STUDY_NAME, _load
from autotune.study.run_folder import RunFolder
from autotune.study.storage import open_storage, readable
from autotune.study.strategies import load_strategy
from autotune.study.strategies.base import PlanSampler, hyperparameters_of, plan_of, search_space
from autotune.study.trial_record import (
    TrialRecord,
    problem_to_json,
    same_training,
)
from autotune.study.writer import Writer
from autotune.utils import interrupts
from autotune.utils.events import tell, warn
from autotune.utils.files import digest_of
from autotune.utils.timings import spent

REPEATS_IN_A_ROW = 3
"""Number of repeats in a row after which a random plan is proposed.

A repeat costs no training but counts as a trial, so a strategy that is stuck wastes few of them.
"""

_TAKEN = "A storage holds one study, {} has one already. Resume it, or name another."

KEPT = 5
"""Number of best trials whose delta files stay in the run folder.

Fewer take less disk space; a winner whose file was removed is trained again.
"""


@dataclass(frozen=True)
class DriverOptions:
    """Options of a driver: strategy, seed, grids, workers, pruner, files."""

    strategy: str
    seed: int
    steps: int
    """Epochs of a full trial, or number of folds if plans are scored by folds."""

    grids: Grids
    workers: int = 1
    folds: int = 0
    pruner: str = "auto"
    strategy_options: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the strategy's class."""

    objective: str = ""
    """`METRIC,PRICE` if the Pareto front is searched; otherwise empty."""

    keep: str = "best"
    """Delta files to keep: those of the `best` five trials and of the front, or of `all`."""

    disk: int | None = None
    """Limit on the files of trials in bytes; the best trial's are kept whatever their size."""

    attempts: int = ATTEMPTS
    """Number of times that a trial is started if its workers die, before it counts as failed."""


@dataclass
class _Live:
    """Trial that is running."""

    trial: Trial
    job: Job
    began: float
    curve: dict[int, float]
    """Recorded value after each epoch."""

    proposed: Mapping[str, Any] = field(default_factory=dict)
    """Proposal of the strategy before it was decoded to a plan within the budget."""

    last: Progress | None = None
    pruned: bool = False


class Driver(Writer):
    """Proposes trials and records their progress; the source of jobs for a backend.

    Create it only while holding the lease (`with Lease(...)`), which every write checks. Raises
    `LeaseError` once another driver has taken over.
    """

    def __init__(
        self,
        folder: RunFolder,
        storage: str | None,
        options: DriverOptions,
        lease: Lease,
        *,
        trials: int,
        deadline: float | None = None,
    ) -> None:
        super().__init__(folder, storage, lease, attempts=options.attempts)
        self.options, self.deadline = options, deadline
        self.space = search_space(self.problem, options.grids)
        self.live: dict[int, _Live] = {}
        self._attempts: dict[int, int] = {}
        self._by_key: dict[tuple[str, str], TrialRecord] = {}
        self._best: list[TrialRecord] = []
        stored = self.study.get_trials(deepcopy=False)
        self._asked_for = len(stored)
        self._interrupted = [t.number for t in stored if t.state is TrialState.RUNNING]
        with uncollected():
            for trial in stored:
                if trial.state.is_finished() and (record := self._read(trial)) is not None:
                    self._rank(record)
        self.goal = trials + sum(bool(record and record.origin) for record in self._ended.values())
        self.scores: Scores | None = None
        self._samplers: dict[tuple[str, int], PlanSampler] = {}
        self.price = objective_price(options.objective, self.problem)
        self.study.pruner = _pruner(options)
        if isinstance(self.study.pruner, Priced):
            self.study.pruner.price = self._trial_price
        self._clean()

    def _opened(self, storage: BaseStorage, where: str) -> BaseStorage:
        return Mirror(super()._opened(storage, where), STUDY_NAME)

    @property
    def seed(self) -> int:
        return self.options.seed

    @cached_property
    def strategy(self) -> PlanSampler:
        """Sampler of the strategy without scores, for reading its facts and options."""
        return self._made(self.options.strategy, self.problem)

    # calls of a backend

    @spent("proposing")
    def next_job(self) -> Job | None:
        """Job of the next trial, interrupted trials first; None if there is none at present."""
        while True:
            interrupts.check()
            self.lease.check()
            if self._interrupted:
                job = self._resumed(self._interrupted.pop(0))
            elif (trial := self._asked()) is not None:
                job = self._started(trial, 0, {})
            else:
                return None
            if job is not None:
                return job

    def has_more(self) -> bool:
        """Whether a trial is left to run, according to the record."""
        return bool(self._interrupted) or self._next_sampler() is not None

    @spent("storage")
    def report(self, job: Job, progress: Progress) -> Decision:
        """Record the progress of an epoch, its checkpoint first, and decide about the trial.

        Progress of an earlier attempt stops it; a step that is already recorded is not written
        again.
        """
        interrupts.check()
        self.lease.check()
        live = self.live.get(job.number)
        if live is None or live.job.attempt != job.attempt:
            return Decision.STOP
        if live.last is not None and progress.parts > live.last.parts:
            warn(
                f"{job.name} did not fit into memory; it continues with each batch in "
                f"{progress.parts} parts.",
                number=job.number,
            )
        live.last = progress
        if (name := measured_by(self.options.objective)) and not live.curve:
            live.trial.set_user_attr("measured", {name: progress.metrics[name]})
        if progress.step not in live.curve:
            if progress.step < self.options.steps:
                packed = pack(progress.checkpoint, {})
                self.folder.write(self.folder.checkpoint(job.number), packed)
            live.trial.report(progress.value, progress.step)
            live.curve[progress.step] = progress.value
            tell(
                "progress-of-trial",
                f"{job.name}: {progress.step}/{self.options.steps} {progress.value:.4f}",
                number=job.number,
                step=progress.step,
                steps=self.options.steps,
                value=progress.value,
            )
        # A resumed trial repeats steps after which the driver had already let it continue.
        is_last = progress.step == max(live.curve) < self.options.steps
        live.pruned = is_last and live.trial.should_prune()
        return Decision.STOP if live.pruned else Decision.CONTINUE

    @spent("storage")
    def finish(self, job: Job) -> None:
        """Record the end of a job: pruned if it was stopped, otherwise complete."""
        self.lease.check()
        live = self.live.get(job.number)
        if live is None or live.job.attempt != job.attempt or live.last is None:
            return
        state = TrialState.PRUNED if live.pruned else TrialState.COMPLETE
        if state is TrialState.COMPLETE and live.last.artifact is not None:
            self.folder.write(self.folder.delta(job.number), live.last.artifact)
        self._end(live, state, live.last.metrics)

    def fail(self, job: Job, failure: Failure) -> None:
        """Record that the job raised an exception."""
        self.lease.check()
        live = self.live.get(job.number)
        if live is None or live.job.attempt != job.attempt:
            return
        warn(f"{job.name} failed: {failure.type}: {failure.text}", number=job.number)
        self._end(live, TrialState.FAIL, {}, error=f"{failure.type}: {failure.text}")

    def lost(self, job: Job) -> None:
        """Start a job again from its last checkpoint after its worker died, within `attempts`."""
        live = self.live.pop(job.number, None)
        if live is None:
            return
        if job.attempt + 1 >= self.attempts:
            self.live[job.number] = live
            self.fail(job, Failure("WorkerError", f"its worker died {self.attempts} times"))
        else:
            self._interrupted.append(job.number)
            self._attempts[job.number] = job.attempt
            warn(f"The worker of {job.name} died; it continues on another.", number=job.number)

    # other records

    def admit(self, trial: FrozenTrial) -> TrialRecord:
        """Add a complete trial that was trained elsewhere; it does not count towards the goal."""
        self.lease.check()
        self.study.add_trial(trial)
        record = self._read(self.study.get_trials(deepcopy=False)[-1])
        assert record is not None
        self._asked_for, self.goal = record.number + 1, self.goal + 1
        self._rank(record)
        return record

    # private

    def _resumed(self, number: int) -> Job | None:
        """Job of an interrupted trial; parameters that were not stored are sampled now."""
        self.study.sampler = self._sampler(number)
        self.study.sampler.proposed = {}
        study_id = self.storage.get_study_id_from_name(STUDY_NAME)
        at = self.storage.get_trial_id_from_study_id_trial_number(study_id, number)
        trial, stored = Trial(self.study, at), self.storage.get_trial(at)
        known = self._attempts.get(number, stored.user_attrs.get("attempt", 0))
        trial.set_user_attr("attempt", known + 1)
        return self._started(trial, known + 1, stored.intermediate_values)

    def _asked(self) -> Trial | None:
        sampler = self._next_sampler()
        if sampler is None or (self.deadline and time.time() >= self.deadline):
            return None
        self.study.sampler = sampler
        trial = self.study.ask(dict(self.space))
        # If the storage created a trial but its reply was lost, that trial is resumed.
        self._interrupted += range(self._asked_for, trial.number)
        self._asked_for = trial.number + 1
        return trial

    def _next_sampler(self) -> PlanSampler | None:
        """Sampler of the next trial; None if all trials were asked for or it has no plan left."""
        if self._asked_for >= self.goal:
            return None
        sampler = self._sampler(self._asked_for)
        return None if sampler.is_idle(self.study) else sampler

    def _started(self, trial: Trial, attempt: int, curve: Mapping[int, float]) -> Job | None:
        """Job of a trial; None if an earlier trial with the same training answers it."""
        params = trial.params
        for name, distribution in self.space.items():
            if name not in params:
                params[name] = trial.suggest_categorical(name, distribution.choices)
        plan = plan_of(self.problem, params)
        assert self.problem.fits(plan), "decode lets nothing over the budget through"
        hyperparameters = hyperparameters_of(params)
        earlier = self._earlier(plan, hyperparameters)
        if earlier is not None:
            self._answer(trial, earlier, curve)
            return None
        job = Job(
            name=f"trial {trial.number}",
            plan=plan,
            hyperparameters=hyperparameters,
            seed=self.options.seed,
            number=trial.number,
            attempt=attempt,
            checkpoint=self._checkpoint(trial.number, curve),
        )
        proposed = getattr(self.study.sampler, "proposed", {})
        self.live[trial.number] = _Live(trial, job, time.monotonic(), dict(curve), proposed)
        tell("start", f"{job.name}: {plan}", number=trial.number, plan=str(plan))
        return job

    def _checkpoint(self, number: int, curve: Mapping[int, float]) -> bytes | None:
        """Checkpoint of a trial; without one that can be read, it is trained again."""
        name, file = f"trial {number}", self.folder.checkpoint(number)
        if (former := self.folder.read(self.folder.former_checkpoint(number))) is not None:
            return former
        if curve and not file.is_file():
            warn(f"The checkpoint of {name} is missing, so it is trained again.", number=number)
        unpacked = read_checkpoint(file, name)
        return unpacked[1] if unpacked else None

    def _earlier(self, plan: Plan, hyperparameters: Mapping[str, float]) -> TrialRecord | None:
        """Earlier trial that trained in the same way."""
        key = same_training(plan, hyperparameters)
        return self._by_key.get(key)

    def _answer(self, trial: Trial, earlier: TrialRecord, curve: Mapping[int, float]) -> None:
        """End a trial with the result of an earlier one, without training."""
        for step, value in enumerate(earlier.curve, 1):
            if step not in curve:
                trial.report(value, step)
        record = {
            "metrics": dict(earlier.metrics),
            "seconds": 0.0,
            "error": earlier.error,
            "repeat_of": earlier.number,
            **({"folds": earlier.folds} if earlier.folds else {}),
        }
        trial.set_user_attr("record", record)
        self.study.tell(trial.number, earlier.value, state=earlier.state)
        self._ended[trial.number] = replace(
            earlier, number=trial.number, repeat_of=earlier.number, seconds=0.0, origin=""
        )
        tell(
            "repeat",
            f"trial {trial.number} repeats trial {earlier.number} and is answered from the record.",
            number=trial.number,
            repeat_of=earlier.number,
        )

    def _end(
        self, live: _Live, state: TrialState, metrics: Mapping[str, float], *, error: str = ""
    ) -> None:
        number = live.job.number
        seconds = time.monotonic() - live.began
        folds = live.last.folds if live.last else ()
        delivered = live.last.artifact if live.last else None
        digest = digest_of(delivered) if delivered is not None else ""
        record = {
            "metrics": dict(metrics),
            "seconds": seconds,
            "error": error,
            **({"folds": folds} if folds else {}),
            **({"parts": live.last.parts} if live.last and live.last.parts > 1 else {}),
            **({"digest": digest} if digest else {}),
            **({"proposed": live.proposed} if live.proposed else {}),
        }
        live.trial.set_user_attr("record", record)
        value = live.last.value if state is TrialState.COMPLETE and live.last else None
        self.study.tell(number, value, state=state)
        del self.live[number]
        self.folder.drop_checkpoint(number)
        cost = self.problem.cost(live.job.plan)
        ended = TrialRecord(
            number=number,
            state=state,
            plan=live.job.plan,
            hyperparameters=live.job.hyperparameters,
            cost=cost,
            value=value,
            metrics=metrics,
            curve=tuple(value for _, value in sorted(live.curve.items())),
            folds=folds,
            seconds=seconds,
            digest=digest,
            error=error,
        )
        self._ended[number] = ended
        self._rank(ended)
        self._clean()
        shown = "" if live.last is None else f" {live.last.value:.4f}"
        tell(
            "end",
            f"{live.job.name}: {ended.state_name}{shown}, {cost.parameters:,} parameters",
            number=number,
            state=ended.state_name,
            value=value,
            cost=cost.parameters,
            plan=str(live.job.plan),
            labels={unit: choice.label for unit, choice in live.job.plan.choices.items()},
            seconds=seconds,
        )

    def _clean(self) -> None:
        """Remove the files of all trials except the best, running and interrupted ones."""
        unfinished = {*self.live, *self._interrupted}
        best = [record.number for record in self._best]
        if self.price is not None:
            best += [record.number for record in front(self._by_key.values(), self.price)]
        if self.options.disk is not None:
            best = self.folder.within(dict.fromkeys(best), self.options.disk, unfinished)
        self.folder.keep_only({*best} | unfinished, range(self._asked_for))
        for number in {*best} - unfinished:
            self.folder.drop_checkpoint(number)

    def _rank(self, record: TrialRecord) -> None:
        if record.repeat_of is not None:
            return
        self._by_key.setdefault(record.key, record)
        if record.is_complete:
            insort(self._best, record, key=TrialRecord.rank)
        if self.options.keep == "best":
            del self._best[KEPT:]

    def _sampler(self, number: int) -> PlanSampler:
        """Sampler of the strategy, or a random one after `REPEATS_IN_A_ROW` repeats."""
        last = [self._ended.get(number - i - 1) for i in range(REPEATS_IN_A_ROW)]
        are_repeats = [r is not None and r.repeat_of is not None for r in last]
        strategy = "random" if all(are_repeats) else self.options.strategy
        problem = self.problem
        if self.price is not None and not load_strategy(strategy).is_spread:
            problem = part_of(problem, number)
        key = strategy, problem.budget.limit
        if key not in self._samplers:
            self._samplers[key] = self._made(strategy, problem)
        return self._samplers[key]

    @cached_property
    def _trial_price(self) -> Callable[[FrozenTrial], float] | None:
        return None if self.price is None else trial_price(self.problem, self.price)

    def _made(self, strategy: str, problem: Problem) -> PlanSampler:
        make: Callable[..., PlanSampler] = load_strategy(strategy)
        options = self.options
        strategy_options = options.strategy_options if strategy == options.strategy else {}
        sampler = make(
            problem,
            options.grids,
            seed=options.seed,
            workers=options.workers,
            scores=self.scores,
            **strategy_options,
        )
        sampler.price = self._trial_price
        return sampler


def create(
    folder: RunFolder,
    storage: str | None,
    problem: Problem,
    attributes: Mapping[str, Any],
    *,
    may_exist: bool = False,
) -> None:
    """Create a study with its problem and attributes.

    The problem is that before the preparation, which may charge buffers to it. With `may_exist`, a
    study whose creation was interrupted is completed. Raises `StudyExists` if the storage already
    has a study.
    """
    try:
        study = optuna.create_study(
            storage=open_storage(folder, storage),
            study_name=STUDY_NAME,
            direction="maximize",
            load_if_exists=may_exist,
        )
    except optuna.exceptions.DuplicatedStudyError as error:
        raise StudyExists(_TAKEN.format(readable(storage or str(folder.database)))) from error
    begun = {"format": STUDY_FORMAT, **attributes, _LAST: problem_to_json(problem)}
    for name, value in begun.items():
        study.set_user_attr(name, value)


_LAST = "problem"
"""Attribute that is written last when a study is created."""


def has_study(folder: RunFolder, storage: str | None) -> bool:
    """Whether the storage of a run has its whole study, which is created right after its folder."""
    if storage is None and not folder.database.is_file():
        return False
    opened = open_storage(folder, storage)
    if STUDY_NAME not in optuna.get_all_study_names(opened):
        return False
    return _LAST in _load(opened, storage or str(folder.database)).user_attrs


def require_free(folder: RunFolder, storage: str | None) -> None:
    """Raise `RunError` if the named storage is unreachable, `StudyExists` if it has a study.

    Raises `LeaseError`, which names the driver, if that study is running.
    """
    if storage is None:
        return
    opened = open_storage(folder, storage)
    if STUDY_NAME not in optuna.get_all_study_names(opened):
        return
    owner = holder(folder.lease, _load(opened, storage).user_attrs.get("lease"))
    if owner is not None:
        raise LeaseError(f"One driver owns a study; {readable(storage)} is owned by {owner}.")
    raise StudyExists(_TAKEN.format(readable(storage)))


def _pruner(options: DriverOptions) -> optuna.pruners.BasePruner:
    default = load_strategy(options.strategy).default_pruner
    name = choose_pruner(options.pruner, default, options.folds, options.objective)
    pruner: optuna.pruners.BasePruner = PRUNERS.load(name)(options.steps)
    return pruner
