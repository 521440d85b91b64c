"""Grids of training hyperparameters, and the values on them that need no search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from autotune.problem.plan import Plan

Grids = Mapping[str, tuple[float, ...]]
"""Hyperparameter (`lr:METHOD`, `weight_decay`) → the values it may take."""


def middle(grid: Sequence[float]) -> float:
    """Middle value of a grid; of two, the lower one."""
    return sorted(grid)[(len(grid) - 1) // 2]


def middles(grids: Grids) -> dict[str, float]:
    """Hyperparameter → middle value of its grid."""
    return {name: middle(grid) for name, grid in grids.items()}


def three_rates(grids: Grids, plan: Plan, head: float | None) -> list[dict[str, float]]:
    """Hyperparameters of a plan at the lowest, the middle and the highest rate of its methods.

    `head` is the head's rate if it is known already; otherwise it varies with the others.
    """
    decay = {"weight_decay": grids["weight_decay"][0]}
    candidates = []
    for pick in (min, middle, max):
        rates = {f"lr:{method}": pick(grids[f"lr:{method}"]) for method in plan.methods()}
        candidates.append({"lr:head": head or pick(grids["lr:head"]), **rates, **decay})
    return list({str(rates): rates for rates in candidates}.values())
