"""Immutable records of stored trials, and the JSON form of a problem."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from autotune.problem.budget import Budget, Cost, Measure
from autotune.problem.job import used
from autotune.problem.method_facts import MethodFacts
from autotune.problem.plan import Choice, Method, Plan
from autotune.problem.problem import Problem
from autotune.study.strategies.base import hyperparameters_of, plan_of
from autotune.utils.typed import typed

BASELINE_ORIGIN = "reference "
"""Prefix of the origin of a trial that was trained as a baseline; part of the format."""


@dataclass(frozen=True)
class TrialRecord:
    """Trial as it is stored."""

    number: int
    state: TrialState
    plan: Plan
    hyperparameters: Mapping[str, float]
    cost: Cost
    value: float | None
    """Maximised metric on validation after the last epoch; None unless complete."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    curve: tuple[float, ...] = ()
    """Value after each epoch (fold)."""

    folds: tuple[float, ...] = ()
    """Value of each fold; empty without folds."""

    seconds: float = 0.0
    digest: str = ""
    """SHA-256 of the delta file that it delivered; empty if there is none, or it is not known."""

    error: str = ""
    origin: str = ""
    """Path of the other run, or name of the baseline, that trained it; empty for own trials."""

    repeat_of: int | None = None
    """Number of an earlier trial with the same training, whose result was copied."""

    @property
    def baseline(self) -> str:
        """Name of the baseline that became this trial; empty for any other trial."""
        prefix, name = self.origin[: len(BASELINE_ORIGIN)], self.origin[len(BASELINE_ORIGIN) :]
        return name if prefix == BASELINE_ORIGIN else ""

    @property
    def is_complete(self) -> bool:
        return self.state is TrialState.COMPLETE

    @property
    def state_name(self) -> str:
        """Name of the state: `complete`, `pruned`, `failed`, `running` or `out of memory`."""
        if self.state is TrialState.FAIL:
            return "out of memory" if "OutOfMemory" in self.error else "failed"
        return self.state.name.lower()

    @cached_property
    def key(self) -> tuple[str, str]:
        """Key that is equal for trials with the same training (in one study, hence one seed)."""
        return same_training(self.plan, self.hyperparameters)

    def rank(self) -> tuple[float, int, int]:
        """Key that sorts the best trial first: by value, then the cheaper, then the earlier one."""
        assert self.value is not None
        return (-self.value, self.cost.parameters, self.number)


def same_training(plan: Plan, hyperparameters: Mapping[str, float]) -> tuple[str, str]:
    """Key of a plan and the hyperparameters that it uses; equal keys mean the same training."""
    return plan.digest, json.dumps(used(plan, hyperparameters), sort_keys=True)


def read_trial(problem: Problem, trial: FrozenTrial) -> TrialRecord | None:
    """Record of a stored trial; None while some of its parameters are missing."""
    units = [u for u in problem.units if len(problem.choices[u]) > 1]
    if any(f"unit:{unit}" not in trial.params for unit in units):
        return None
    plan = plan_of(problem, trial.params)
    record = trial.user_attrs.get("record", {}) if trial.state.is_finished() else {}
    steps = sorted(trial.intermediate_values)
    return typed(
        TrialRecord(
            number=trial.number,
            state=trial.state,
            plan=plan,
            hyperparameters=hyperparameters_of(trial.params),
            cost=problem.cost(plan),
            value=trial.value if trial.state is TrialState.COMPLETE else None,
            metrics=record.get("metrics", {}),
            curve=tuple(trial.intermediate_values[step] for step in steps),
            folds=tuple(record.get("folds", ())),
            seconds=record.get("seconds", 0.0),
            digest=record.get("digest", ""),
            error=record.get("error", ""),
            origin=record.get("origin", ""),
            repeat_of=record.get("repeat_of"),
        )
    )


_UNSTATED = MethodFacts(frozenset({"bypass"}), "lowrank", "rank")
"""Facts about methods in studies of versions that did not store them."""


def problem_to_json(problem: Problem) -> dict[str, Any]:
    """JSON value of a problem, with which its trials can be read without the backbone."""
    budget = problem.budget
    units = {
        unit: [
            {"methods": [m.to_json() for m in c.methods], "cost": _numbers(problem, unit, c)}
            for c in problem.choices[unit]
            if not c.is_frozen()
        ]
        for unit in problem.units
    }
    fixed = problem.fixed
    return {
        "units": units,
        "budget": {
            "limit": budget.limit,
            "total": budget.total,
            "measure": budget.measure.value,
            "text": budget.text,
        },
        "fixed": [fixed.parameters, fixed.stored, fixed.bytes],
        "methods": problem.methods.to_json(),
    }


def problem_from_json(data: Mapping[str, Any]) -> Problem:
    """Inverse of `problem_to_json`."""
    candidates = {
        unit: {_choice(offer["methods"]): typed(Cost(*offer["cost"])) for offer in offers}
        for unit, offers in data["units"].items()
    }
    b = data["budget"]
    budget = typed(Budget(b["limit"], b["total"], Measure(b["measure"]), b["text"]))
    methods = MethodFacts.from_json(data["methods"]) if "methods" in data else _UNSTATED
    return Problem.of(candidates, budget, fixed=typed(Cost(*data["fixed"])), methods=methods)


def _numbers(problem: Problem, unit: str, choice: Choice) -> list[int]:
    cost = problem.costs[unit, choice.label]
    return [cost.parameters, cost.stored, cost.bytes]


def _choice(methods: list[dict[str, Any]]) -> Choice:
    return Choice(tuple(Method(m["name"], tuple(m["options"].items())) for m in methods))
