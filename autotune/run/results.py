"""Results of a search that ended, runs or was interrupted: its answer, trials and state."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from autotune.errors import RunError
from autotune.problem.budget import Cost
from autotune.problem.plan import Plan
from autotune.problem.problem import Problem
from autotune.run.known_runs import allowed
from autotune.run.reading import reading
from autotune.run.settings import Settings, read_settings
from autotune.study.importances import importances
from autotune.study.lease import holder
from autotune.study.pareto import front, objective_price
from autotune.study.reader import Records, Snapshot
from autotune.study.run_folder import RunFolder
from autotune.study.selection.baselines import CONTROL
from autotune.study.selection.comparison import ComparisonRow, comparison_rows
from autotune.study.selection.extra_jobs import tested_as
from autotune.study.selection.unit_profiles import ProfileRow, profile_rows
from autotune.study.stages import (
    ESTIMATE,
    Baseline,
    Final,
    PolicyStage,
    Preparation,
)
from autotune.study.trial_record import TrialRecord


@dataclass(frozen=True)
class Best:
    """The answer of a search."""

    plan: Plan
    value: float
    """Metric on validation, from the trial with the study's seed."""

    artifact: Path
    """Path of `best/delta.safetensors`."""

    number: int | None
    """Number of the trial that the plan comes from; None for the empty plan."""

    test: Mapping[str, float]
    """Metrics on the test part, which is evaluated once."""

    cost: Cost


class BareStudy:
    """A search that ended, runs or was interrupted, with its answer, trials and baselines."""

    def __init__(
        self, folder: str | Path, *, still: bool = False, storage: str | None = None
    ) -> None:
        """Open the run in `folder`; with `still`, read everything once and never again.

        `storage` names the one to read, for a run whose study is not in its folder and that was
        not begun here. Raises `RunError` if the folder is not a run.
        """
        self.folder = RunFolder.existing(folder)
        self.settings = read_settings({}, file=str(self.folder.config))
        if storage is not None:
            self.settings = self.settings.model_copy(update={"storage": storage})
        self._named_storage = storage
        self._is_still = still

    @cached_property
    def _records(self) -> Records:
        kind = Snapshot if self._is_still else Records
        return kind(self.folder, self.storage)

    @property
    def storage(self) -> str | None:
        """Storage of the study, None for the database in its folder.

        Raises `RunError` if only the folder names it, which may come from others.
        """
        return allowed(self.folder, self.settings, "storage", self._named_storage)

    @property
    def problem(self) -> Problem:
        """Units, choices, costs and budget."""
        return self._records.problem

    @property
    def trials(self) -> list[TrialRecord]:
        """All trials, ordered by number."""
        return self._records.trials

    @property
    def identity(self) -> dict[str, Any]:
        """Values that a resumed search may not change: fingerprint, data, settings."""
        return dict(self._records.identity)

    def identity_value(self, name: str) -> str:
        """One value of `identity` as text; `RunError` if the study does not have it."""
        value = self._records.identity.get(name)
        if not isinstance(value, str):
            raise RunError(
                f"A run must state its {name}, {self.folder.path} does not, so it is damaged. "
                "Restore it from a copy."
            )
        return value

    @property
    def baselines(self) -> dict[str, Baseline]:
        """Name → baseline, with its value, test metrics and cost; only those that have run."""
        baselines = self._records.baselines
        return {name: baselines[name] for name in sorted(baselines, key=_place)}

    @property
    def final(self) -> Final | None:
        """Record of the answer with its seeds and test; None until the search has ended."""
        return self._records.final

    @property
    def preparation(self) -> Preparation | None:
        """Whether normalisation statistics were re-estimated, with the values of both probes."""
        return self._records.preparation

    @property
    def policy(self) -> PolicyStage | None:
        """Outcome of learning a policy: its plan, how far it moved, whether it was stable.

        None for other strategies, and until the policy is learned.
        """
        return self._records.policy_stage

    @property
    def front(self) -> list[TrialRecord]:
        """Pareto front of a search with two objectives, the cheapest first; empty with one."""
        price = objective_price(self.settings.objective or "", self.problem)
        return front(self.trials, price) if price else []

    @property
    def profile(self) -> list[ProfileRow]:
        """Results of the plans that tune one unit alone, in depth order."""
        return profile_rows(self._records)

    @cached_property
    def best(self) -> Best:
        """The answer; raises `RunError` if the search has not ended."""
        final = self._records.final
        if final is None:
            raise RunError(
                f"A search has an answer when it has ended, {self.folder.path} is {self.state}. "
                f"Resume it with: {self.resume_command}"
            )
        return Best(
            plan=final.plan,
            value=final.value,
            artifact=self.folder.best,
            number=final.number,
            test=final.test,
            cost=final.cost,
        )

    @property
    def state(self) -> str:
        """`complete`, `running` or `interrupted`."""
        if self.final is not None:
            return "complete"
        alive = holder(self.folder.lease, self._records.attribute("lease"))
        return "running" if alive else "interrupted"

    @property
    def leader(self) -> TrialRecord | None:
        """The best complete trial so far, the cheapest one if several are equal, or None."""
        return next(iter(self._records.ranked()), None)

    def state_of(self, trial: TrialRecord) -> str:
        """Name of a trial's state, `interrupted` if its search stopped while it ran."""
        is_left = trial.state_name == "running" and self.state == "interrupted"
        return "interrupted" if is_left else trial.state_name

    @property
    def resume_command(self) -> str:
        """Shell command that resumes the search."""
        return self.command("resume")

    def command(self, name: str, *arguments: str) -> str:
        """Shell command `autotune NAME RUN ARGUMENTS` for this run.

        It repeats the user's own code, as no command runs what only a run folder names.
        """
        return command_of(self.settings, self.folder, name, *arguments)

    @property
    def seconds(self) -> float:
        """Wall-clock seconds of all sessions so far."""
        return float(sum(self._records.session_seconds))

    @property
    def timings(self) -> dict[str, float]:
        """Stage → seconds that all sessions spent in it; `other` is the time outside stages."""
        seconds: Counter[str] = Counter()
        for session in self._records.session_timings:
            seconds.update(session)
        return {**seconds, "other": self.seconds - sum(seconds.values())}

    @property
    def own_seconds(self) -> float:
        """Seconds of the search, without those of random placement, which is only a control."""
        control = self._records.baselines.get(CONTROL)
        return self.seconds - (control.seconds if control else 0.0)

    @property
    def training_seconds(self) -> float:
        """Seconds spent training in order to choose: supernet, trials and repeats of finalists."""
        repeats = self._records.all_repeats.values()
        stage = self._records.policy_stage
        trained = [trial.seconds for trial in self.trials] + [one.seconds for one in repeats]
        return sum(trained) + (stage.seconds if stage else 0.0)

    @property
    def comparison(self) -> list[ComparisonRow]:
        """Rows of the comparison that `compare` ran, the answer first; empty if it has not run."""
        return comparison_rows(self._records, self.settings.metric)

    def importances(self) -> dict[str, float]:
        """Parameter of the trials → its importance, between 0 and 1, largest first.

        Computed by PED-ANOVA (arXiv 2304.10255); empty as long as fewer than two values are known.
        """
        return importances(self._records)

    @property
    def full_finetuning(self) -> float | None:
        """Estimated seconds of one full fine-tuning on the machine of the first session."""
        estimate = self._records.attribute(ESTIMATE)
        return estimate["full"] if estimate else None

    def status(self) -> dict[str, Any]:
        """The JSON value that `autotune status --json` prints.

        Raises `RunError` if the records of the search are damaged.
        """
        with reading(str(self.folder.path)):
            return _status(self)


def command_of(settings: Settings, folder: RunFolder, name: str, *arguments: str) -> str:
    """Shell command `autotune NAME RUN ARGUMENTS` for a run, with the user's own code named."""
    sources = {"--backbone": settings.backbone, "--task": settings.task}
    code = [word for kind in sources.items() if kind[1].startswith("python:") for word in kind]
    if settings.head_factory is not None:
        code += ["--head-factory", str(settings.head_factory)]
    return shlex.join(["autotune", name, str(folder.path), *arguments, *code])


def _place(baseline: str) -> tuple[int, str]:
    """Sort key: the probes, then the uniform recipe, then random placement, then all others."""
    first = ("probe", "uniform", "random")
    kind = baseline.partition(" ")[0]
    return first.index(kind) if kind in first else len(first), baseline


def _status(study: BareStudy) -> dict[str, Any]:
    budget, final = study.problem.budget, study.final
    names = [study.state_of(record) for record in study.trials if not record.baseline]
    states = dict(Counter(names))
    return {
        "run": str(study.folder.path),
        "resume": study.resume_command,
        "state": study.state,
        "trials": states,
        "asked": study.settings.most_trials,
        "repeats": sum(r.repeat_of is not None for r in study.trials),
        "best": _best_to_json(final or study.leader),
        "budget": {
            "limit": budget.limit,
            "total": budget.total,
            "measure": budget.measure.value,
            "text": budget.text,
            "room": study.problem.room,
        },
        "references": {name: one.to_json() for name, one in study.baselines.items()},
        "front": [
            {
                "number": r.number,
                "value": r.value,
                "label": str(r.plan),
                "cost": asdict(r.cost),
                "metrics": dict(r.metrics),
            }
            for r in study.front
        ],
        "preparation": study.preparation.to_json() if study.preparation else None,
        "policy": _policy_of(study.policy),
        "test": _test_of(final, study.settings.metric) if final else None,
        "final": final.to_json() if final else None,
        "seconds": study.seconds,
        "own_seconds": study.own_seconds,
        "full_finetuning_seconds": study.full_finetuning,
        "timings": study.timings,
    }


def _best_to_json(best: Final | TrialRecord | None) -> dict[str, Any] | None:
    if best is None:
        return None
    return {
        "number": best.number,
        "value": best.value,
        "cost": asdict(best.cost),
        "label": str(best.plan),
        "plan": json.loads(best.plan.to_json()),
    }


def _policy_of(stage: PolicyStage | None) -> dict[str, Any] | None:
    """The stage without its scores and credits, which stay in the study."""
    if stage is None:
        return None
    left_out = ("scores", "earned", "probabilities")
    return {key: value for key, value in stage.to_json().items() if key not in left_out}


def _test_of(final: Final, metric: str) -> dict[str, Any]:
    test = final.test
    metric = tested_as(test, metric)
    return {"metric": metric, "value": test[metric], "accuracy": test["accuracy"], "n": test["n"]}
