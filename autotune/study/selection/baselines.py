"""References: what a user would have done without a search, run with every search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from autotune.errors import TrialError
from autotune.problem.budget import Cost
from autotune.problem.job import Job
from autotune.problem.plan import Plan
from autotune.problem.problem import Problem
from autotune.problem.recipes import uniform_placement
from autotune.problem.sampling import random_placement
from autotune.study.backends.base import Backend
from autotune.study.driver import Driver
from autotune.study.selection.extra_jobs import Test, best_job, deliver_whole, told_of
from autotune.study.strategies.base import Grids
from autotune.utils.events import tell, warn

PROBE, UNIFORM = "probe", "uniform"
BEGUN = "begun:{}"
"""Attribute of a reference that has run at the middle and the highest rate, not at the lowest."""

CONTROL = "random"
"""The reference that no search needs; probes and uniform low rank may be its answer."""


def baseline_plans(problem: Problem, seed: int) -> dict[str, Plan]:
    """Name → plan: linear probe, uniform low rank, one random placement at equal budget."""
    plans = {PROBE: Plan(), UNIFORM: uniform_placement(problem)}
    plans[CONTROL] = random_placement(problem, seed)
    if not plans[UNIFORM].choices:
        warn("The space has no low-rank choice that fits, so there is no uniform reference.")
        del plans[UNIFORM]
    return plans


def run_baselines(driver: Driver, backend: Backend, test: Test) -> None:
    """Run what is not yet recorded; each is the best on validation of three learning rates."""
    setting = driver.setting
    for name, plan in baseline_plans(driver.problem, setting.seed).items():
        if driver.attribute(f"reference:{name}") is None:
            probe = driver.attribute(f"reference:{PROBE}")
            head = probe["hyperparameters"]["lr:head"] if probe else None
            rates = three_rates(setting.grids, plan, head)
            begun = driver.attribute(BEGUN.format(name))
            if begun is not None and begun["plan"] != plan.to_json():
                begun = None
            try:
                left = rates[:-2] if begun else rates
                found = run_baseline(name, plan, left, setting.seed, backend, test) if left else {}
            except TrialError as error:
                warn(f"The reference {name} is left out: {error}", name=name)
                continue
            found = _better(begun, found)
            cost = driver.problem.cost(plan)
            fits = driver.problem.fits(plan)
            driver.record(f"reference:{name}", {**found, "cost": asdict(cost), "fits": fits})


def _better(begun: Mapping[str, Any] | None, found: Mapping[str, Any]) -> dict[str, Any]:
    """The better on validation of what was begun and what ran now; the seconds of both."""
    if not begun or not found:
        return {**(begun or found)}
    seconds = begun["seconds"] + found["seconds"]
    return {**max(begun, found, key=lambda one: float(one["value"])), "seconds": seconds}


def run_baseline(
    name: str,
    plan: Plan,
    rates: list[dict[str, float]],
    seed: int,
    backend: Backend,
    test: Test,
) -> dict[str, Any]:
    """The record of one reference: its value, test, plan, hyperparameters and seconds."""
    jobs = [Job(f"reference {name} {i}", plan, r, seed) for i, r in enumerate(rates)]
    found = best_job(jobs, backend)
    job, best = found.job, found.last
    artifact = best.artifact or deliver_whole(job, backend)
    tell(
        "reference",
        f"reference {name}: {best.value:.4f} on validation",
        name=name,
        value=best.value,
    )
    return {
        **told_of(best),
        "curve": found.curve,
        "test": dict(test(artifact)),
        "cost": asdict(Cost()),
        "fits": True,
        "plan": plan.to_json(),
        "label": str(plan),
        "hyperparameters": dict(job.hyperparameters),
        "seconds": found.seconds,
    }


def three_rates(grids: Grids, plan: Plan, head: float | None) -> list[dict[str, float]]:
    """Lowest, middle and highest rate of every method together; the head's stays once known."""
    decay = {"weight_decay": grids["weight_decay"][0]}
    found = []
    for at in (0.0, 0.5, 1.0):
        rates = {f"lr:{m}": _at(grids[f"lr:{m}"], at) for m in plan.methods()}
        found.append({"lr:head": head or _at(grids["lr:head"], at), **rates, **decay})
    return list({str(rates): rates for rates in found}.values())


def _at(grid: tuple[float, ...], part: float) -> float:
    return sorted(grid)[round(part * (len(grid) - 1))]
