"""The wrapper that makes an Optuna sampler propose plans within the budget."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from autotune.errors import PlanError
from autotune.plan import Plan
from autotune.problem import Problem, decode

PREFIX = "unit:"
Grids = Mapping[str, tuple[float, ...]]
"""Hyperparameter → the values it may take: `lr:METHOD`, `weight_decay`."""

Space = dict[str, BaseDistribution]


def search_space(problem: Problem, grids: Grids) -> dict[str, CategoricalDistribution]:
    """Optuna's view: a categorical per unit over its labels, and one per hyperparameter."""
    units = {
        PREFIX + unit: CategoricalDistribution([c.label for c in problem.choices[unit]])
        for unit in problem.units
        if len(problem.choices[unit]) > 1
    }
    return {**units, **{name: CategoricalDistribution(grid) for name, grid in grids.items()}}


def plan_of(problem: Problem, params: Mapping[str, Any]) -> Plan:
    """The plan among a trial's parameters."""
    labels = {k.removeprefix(PREFIX): v for k, v in params.items() if k.startswith(PREFIX)}
    return Plan({unit: problem.choice(unit, label) for unit, label in labels.items()})


def hyperparameters_of(params: Mapping[str, Any]) -> dict[str, float]:
    """The training hyperparameters among a trial's parameters."""
    return {name: value for name, value in params.items() if not name.startswith(PREFIX)}


class PlanSampler(BaseSampler):
    """Proposes whole plans within the budget, in `sample_relative`.

    `proposed` holds the latest proposal as it was before decoding, where that is another.
    """

    def __init__(self, problem: Problem, grids: Grids) -> None:
        self.problem, self.grids = problem, grids
        self.space = search_space(problem, grids)
        self.proposed: dict[str, Any] = {}

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> Space:
        return dict(self.space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: Any
    ) -> Any:
        """The whole plan's, when the study asks name by name; for units it must not."""
        if param_name.startswith(PREFIX):
            raise PlanError(
                f"A plan is proposed as a whole, not by its unit {param_name!r} alone. "
                "Ask with study.ask(search_space(problem, grids))."
            )
        return self._alone(study, trial, param_name, param_distribution)

    @abstractmethod
    def _alone(self, study: Study, trial: FrozenTrial, name: str, distribution: Any) -> Any:
        """A hyperparameter that was asked for by itself."""


class BudgetedSampler(PlanSampler):
    """Proposes by an inner sampler, decoded onto the budget inside `sample_relative`.

    The inner sampler is made anew for every trial from (seed, number), so a proposal is a
    function of the seed and the record alone. What it leaves out is filled by its own
    `sample_independent`.
    """

    def __init__(
        self, make: Callable[[int], BaseSampler], problem: Problem, grids: Grids, *, seed: int
    ) -> None:
        super().__init__(problem, grids)
        self.make, self.seed = make, seed

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: Space
    ) -> dict[str, Any]:
        inner = self.make(seed_of(self.seed, trial.number))
        space = inner.infer_relative_search_space(study, trial)
        proposed = inner.sample_relative(study, trial, space)
        for name, distribution in search_space.items():
            if name not in proposed:
                value = inner.sample_independent(study, trial, name, distribution)
                proposed[name] = value
        self.proposed = proposed
        return {**proposed, **self._decoded(proposed)}

    def _alone(self, study: Study, trial: FrozenTrial, name: str, distribution: Any) -> Any:
        inner = self.make(seed_of(self.seed, trial.number))
        return inner.sample_independent(study, trial, name, distribution)

    def _decoded(self, proposed: Mapping[str, Any]) -> dict[str, str]:
        units = {k.removeprefix(PREFIX): v for k, v in proposed.items() if k.startswith(PREFIX)}
        plan = decode(self.problem, units)
        return {PREFIX + unit: plan[unit].label for unit in units}


def seed_of(*parts: object) -> int:
    """A seed of 32 bits from a few values, the same on every machine."""
    text = ":".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
