"""Trials that were trained elsewhere: those of a profile, and baselines among the finalists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial, create_trial

from autotune.problem.grids import Grids, middle
from autotune.problem.job import used
from autotune.problem.plan import Plan
from autotune.problem.problem import Problem
from autotune.study.strategies.base import PREFIX, search_space


def adopted(
    problem: Problem,
    grids: Grids,
    plan: Plan,
    hyperparameters: Mapping[str, float],
    *,
    value: float,
    metrics: Mapping[str, float],
    origin: str,
    seconds: float = 0.0,
    curve: Sequence[float] = (),
    folds: Sequence[float] = (),
) -> FrozenTrial | None:
    """Complete trial of this problem; None if its space or grids do not contain it."""
    labels, rates = _labels(plan, problem), _rates(plan, hyperparameters, grids)
    if labels is None or rates is None:
        return None
    record: dict[str, Any] = {"metrics": dict(metrics), "origin": origin, "seconds": seconds}
    return create_trial(
        params={**{PREFIX + u: label for u, label in labels.items()}, **rates},
        distributions=dict(search_space(problem, grids)),
        value=value,
        intermediate_values=dict(enumerate(curve, 1)),
        user_attrs={"record": {**record, "folds": list(folds)} if folds else record},
    )


def _rates(
    plan: Plan, hyperparameters: Mapping[str, float], grids: Grids
) -> dict[str, float] | None:
    """Hyperparameters that were used, others at the middle of their grid; None if not in a grid."""
    known = used(plan, hyperparameters)
    if any(value not in grids.get(name, ()) for name, value in known.items()):
        return None
    return {name: known.get(name, middle(grid)) for name, grid in grids.items()}


def _labels(plan: Plan, problem: Problem) -> dict[str, str] | None:
    """Unit → label of the problem's parameters; None if the plan is not in its space."""
    for unit, choice in plan.choices.items():
        if choice not in problem.choices.get(unit, ()):
            return None
    return {u: plan[u].label for u in problem.units if len(problem.choices[u]) > 1}
