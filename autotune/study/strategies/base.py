"""Base classes of strategies: Optuna samplers that propose plans within the budget."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, ClassVar

from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from autotune.errors import PlanError
from autotune.problem.grids import Grids, middles
from autotune.problem.knapsack import Scores
from autotune.problem.plan import Plan
from autotune.problem.problem import Problem, decode
from autotune.problem.sampling import seed_of
from autotune.study.strategies.score_source import ScoreSource

PREFIX = "unit:"
Space = dict[str, BaseDistribution]


def search_space(problem: Problem, grids: Grids) -> dict[str, CategoricalDistribution]:
    """Search space for Optuna: one categorical per unit, over its labels, and hyperparameter.

    Units with a single choice are not in it.
    """
    units = {
        PREFIX + unit: CategoricalDistribution([c.label for c in problem.choices[unit]])
        for unit in problem.units
        if len(problem.choices[unit]) > 1
    }
    return {**units, **{name: CategoricalDistribution(grid) for name, grid in grids.items()}}


def plan_of(problem: Problem, params: Mapping[str, Any]) -> Plan:
    """Plan that a trial's parameters describe."""
    labels = {k.removeprefix(PREFIX): v for k, v in params.items() if k.startswith(PREFIX)}
    return Plan({unit: problem.choice(unit, label) for unit, label in labels.items()})


def hyperparameters_of(params: Mapping[str, Any]) -> dict[str, float]:
    """Training hyperparameters among a trial's parameters."""
    return {name: value for name, value in params.items() if not name.startswith(PREFIX)}


class PlanSampler(BaseSampler):
    """Proposes whole plans within the budget, in `sample_relative`.

    `proposed` is the latest proposal before decoding; empty for strategies that do not decode.
    `price` returns the second objective of a stored trial; None unless the front is searched.

    A strategy is a subclass in the table `STRATEGIES`. It states its facts as class attributes,
    and further keyword arguments of its constructor are its options.
    """

    default_trials: ClassVar[int | None] = None
    """Default number of trials; None for the default of the setting `trials`."""

    ends_by_itself: ClassVar[bool] = False
    """Whether it runs out of plans; `default_trials` is then only a safeguard."""

    default_pruner: ClassVar[str] = ""
    """Pruner that `auto` selects; if empty, it depends on folds and objective."""

    score_source: ClassVar[ScoreSource] = ScoreSource.NONE
    """Source of the `scores` that it receives."""

    is_spread: ClassVar[bool] = False
    """Whether it proposes cheap and expensive plans without limits on the budget of trials.

    For other strategies, a search for the front gives trials different fractions of the budget.
    """

    admits_baselines: ClassVar[bool] = True
    """Whether a baseline among the best two plans becomes one of its trials."""

    criterion: str = "mass"
    """Criterion of `ScoreSource.PROXIES`."""

    seeds: int = 1
    """Number of trainings of each complete trial, with consecutive seeds, before finalists."""

    price: Callable[[FrozenTrial], float] | None = None

    def __init__(
        self,
        problem: Problem,
        grids: Grids,
        *,
        seed: int = 0,
        workers: int = 1,
        scores: Scores | None = None,
    ) -> None:
        self.problem, self.grids = problem, grids
        self.seed, self.workers, self.scores = seed, workers, scores
        self.space = search_space(problem, grids)
        self.proposed: dict[str, Any] = {}

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> Space:
        return dict(self.space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: Any
    ) -> Any:
        """Sample a hyperparameter that is asked for alone; raises `PlanError` for a unit."""
        if param_name.startswith(PREFIX):
            raise PlanError(
                f"A plan is proposed as a whole, not by its unit {param_name!r} alone. "
                "Ask with study.ask(search_space(problem, grids))."
            )
        return self._alone(study, trial, param_name, param_distribution)

    def check(self) -> None:
        """Raise the error, if any, that the first proposal would raise."""
        return

    def is_idle(self, study: Study) -> bool:
        """Whether it has nothing to propose now, as it waits for running trials or has ended."""
        return False

    @abstractmethod
    def _alone(self, study: Study, trial: FrozenTrial, name: str, distribution: Any) -> Any:
        """Sample one hyperparameter that was asked for alone."""


class ListingSampler(PlanSampler):
    """Proposes plans deterministically, each with the middle value of every grid.

    Once no plan is left, it repeats the best one.
    """

    default_trials = 1000
    ends_by_itself = True
    default_pruner = "none"
    is_spread = True

    @abstractmethod
    def next_plan(self, begun: Begun, study: Study) -> Plan | None:
        """Next plan that no trial in `begun` has; None if there is none at present."""

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: Space
    ) -> dict[str, Any]:
        begun = self.begun(study, before=trial.number)
        plan = self.next_plan(begun, study)
        if plan is None:
            plan = best_plan(begun, study)
        labels = {PREFIX + unit: plan[unit].label for unit in self.problem.units}
        return {n: v for n, v in (labels | self._middle).items() if n in search_space}

    def begun(self, study: Study, *, before: int | None = None) -> Begun:
        """Digest → plan and its first trial, among trials with the middle value of every grid."""
        first: dict[str, tuple[Plan, FrozenTrial]] = {}
        for trial in study.get_trials(deepcopy=False)[:before]:
            rates = hyperparameters_of(trial.params)
            plan = self._plan(trial)
            if all(rates.get(name) == value for name, value in self._middle.items()):
                first.setdefault(plan.digest, (plan, trial))
        return first

    def is_idle(self, study: Study) -> bool:
        return self.next_plan(self.begun(study), study) is None

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Stop `study.optimize` when no plan is left and no other trial is running."""
        others = study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING))
        if self.is_idle(study) and all(other.number == trial.number for other in others):
            with suppress(RuntimeError):  # raised outside `study.optimize`
                study.stop()

    @cached_property
    def _plans(self) -> dict[int, Plan]:
        return {}

    def _plan(self, trial: FrozenTrial) -> Plan:
        if trial.number not in self._plans or not trial.state.is_finished():
            self._plans[trial.number] = plan_of(self.problem, trial.params)
        return self._plans[trial.number]

    @property
    def _middle(self) -> dict[str, float]:
        return middles(self.grids)

    def _alone(self, study: Study, trial: FrozenTrial, name: str, distribution: Any) -> Any:
        if name in self._middle:
            return self._middle[name]
        return RandomSampler(trial.number).sample_independent(study, trial, name, distribution)


class FixedSampler(ListingSampler):
    """Proposes the plans of a list once each, in order, and then ends."""

    @property
    @abstractmethod
    def plans(self) -> Sequence[Plan]:
        """All plans, in the order in which they are proposed."""

    def check(self) -> None:
        _ = self.plans

    def next_plan(self, begun: Begun, study: Study) -> Plan | None:
        return next((plan for plan in self.plans if plan.digest not in begun), None)


Begun = Mapping[str, tuple[Plan, FrozenTrial]]
"""Digest of a plan → the plan and its first trial."""


def best_plan(begun: Begun, study: Study) -> Plan:
    """Plan with the best value; the empty plan if no trial is complete."""
    sign = -1.0 if study.direction is StudyDirection.MINIMIZE else 1.0
    ended = [(plan, t.value) for plan, t in begun.values() if t.state is TrialState.COMPLETE]
    values = [(sign * value, plan) for plan, value in ended if value is not None]
    return max(values, key=lambda pair: pair[0])[1] if values else Plan()


class DecodingSampler(PlanSampler):
    """Decodes the proposals of an inner Optuna sampler to plans within the budget.

    A new inner sampler is made for every trial from (seed, number), so that a proposal depends
    only on the seed and the record. It receives the whole search space, since inferring it would
    read all trials. Parameters that it does not sample jointly come from its
    `sample_independent`.
    """

    @abstractmethod
    def make(self, seed: int) -> BaseSampler:
        """Make the inner sampler of one trial."""

    @cached_property
    def _open(self) -> Space:
        """Parameters with more than one value."""
        return {name: values for name, values in self.space.items() if not values.single()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: Space
    ) -> dict[str, Any]:
        inner = self.make(seed_of(self.seed, trial.number))
        return self._by(inner, study, trial, search_space)

    def _by(
        self, inner: BaseSampler, study: Study, trial: FrozenTrial, search_space: Space
    ) -> dict[str, Any]:
        proposed = inner.sample_relative(study, trial, dict(self._open))
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


class BudgetedSampler(DecodingSampler):
    """Any Optuna sampler within the budget; `make(seed)` returns the sampler of one trial."""

    def __init__(
        self,
        make: Callable[[int], BaseSampler],
        problem: Problem,
        grids: Grids,
        *,
        seed: int = 0,
    ) -> None:
        super().__init__(problem, grids, seed=seed)
        self._make = make

    def make(self, seed: int) -> BaseSampler:
        return self._make(seed)
