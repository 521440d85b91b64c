"""References: what a user would have done without a search, run with every search."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from autotune.backends.base import Backend, JobList
from autotune.budget import Cost
from autotune.errors import TrialError
from autotune.events import tell, warn
from autotune.placements import random_placement, uniform_lowrank
from autotune.plan import Plan
from autotune.problem import Problem
from autotune.strategies.base import Grids
from autotune.study import Driver
from autotune.trial import Failure, Job, Progress

Test = Callable[[bytes], Mapping[str, float]]
"""Metrics of a delta file on the test part."""

PROBE, UNIFORM = "probe", "uniform"
BEGUN = "begun:{}"
"""Attribute of a reference that has run at the middle and the highest rate, not at the lowest."""

CONTROL = "random"
"""The reference that no search needs; probes and uniform low rank may be its answer."""


def reference_plans(problem: Problem, seed: int) -> dict[str, Plan]:
    """Name → plan: linear probe, uniform low rank, one random placement at equal budget."""
    plans = {PROBE: Plan(), UNIFORM: uniform_lowrank(problem)}
    plans[CONTROL] = random_placement(problem, seed)
    if not plans[UNIFORM].choices:
        warn("The space has no low-rank choice that fits, so there is no uniform reference.")
        del plans[UNIFORM]
    return plans


def run_references(driver: Driver, backend: Backend, test: Test) -> None:
    """Run what is not yet recorded; each is the best on validation of three learning rates."""
    setting = driver.setting
    for name, plan in reference_plans(driver.problem, setting.seed).items():
        if driver.attribute(f"reference:{name}") is None:
            probe = driver.attribute(f"reference:{PROBE}")
            head = probe["hyperparameters"]["lr:head"] if probe else None
            rates = three_rates(setting.grids, plan, head)
            begun = driver.attribute(BEGUN.format(name))
            if begun is not None and begun["plan"] != plan.to_json():
                begun = None
            try:
                left = rates[:-2] if begun else rates
                found = run_reference(name, plan, left, setting.seed, backend, test) if left else {}
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


def run_reference(
    name: str,
    plan: Plan,
    rates: list[dict[str, float]],
    seed: int,
    backend: Backend,
    test: Test,
) -> dict[str, Any]:
    """The record of one reference: its value, test, plan, hyperparameters and seconds."""
    jobs = [Job(f"reference {name} {i}", plan, r, seed) for i, r in enumerate(rates)]
    found = best_of(jobs, backend)
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


def told_of(last: Progress) -> dict[str, Any]:
    """What is recorded of a training that ended."""
    folds = {"folds": list(last.folds)} if last.folds else {}
    return {"value": last.value, "metrics": dict(last.metrics), **folds}


def tested_as(test: Mapping[str, float], metric: str) -> str:
    """What is told of the test part: the study's metric, or accuracy where it has none."""
    return metric if metric in test else "accuracy"


def three_rates(grids: Grids, plan: Plan, head: float | None) -> list[dict[str, float]]:
    """Lowest, middle and highest rate of every method together; the head's stays once known."""
    decay = {"weight_decay": grids["weight_decay"][0]}
    found = []
    for at in (0.0, 0.5, 1.0):
        rates = {f"lr:{m}": _at(grids[f"lr:{m}"], at) for m in plan.methods()}
        found.append({"lr:head": head or _at(grids["lr:head"], at), **rates, **decay})
    return list({str(rates): rates for rates in found}.values())


@dataclass(frozen=True)
class Trained:
    """The best of some jobs."""

    job: Job
    last: Progress
    curve: list[float]
    """Value after each epoch (fold)."""

    seconds: float
    """Of all of them."""


def best_of(jobs: list[Job], backend: Backend) -> Trained:
    """The job with the best value on validation; `TrialError` when all failed."""
    began, listed = time.monotonic(), JobList(jobs)
    backend.run(listed)
    ended = [(job, listed.results[job.name]) for job in jobs]
    finished = [(job, r) for job, r in ended if isinstance(r, Progress)]
    if not finished:
        failure = ended[0][1]
        assert isinstance(failure, Failure)
        raise TrialError(f"{jobs[0].name} failed with every learning rate: {failure.text}")
    job, best = max(finished, key=lambda pair: pair[1].value)
    curve = [value for _, value in sorted(listed.curves[job.name].items())]
    return Trained(job, best, curve, time.monotonic() - began)


def deliver_whole(job: Job, backend: Backend) -> bytes:
    """The delta file of a job that was scored by folds: trained once more on all of them."""
    whole = replace(job, name=f"{job.name} whole", whole=True)
    artifact = best_of([whole], backend).last.artifact
    assert artifact is not None
    return artifact


def _at(grid: tuple[float, ...], part: float) -> float:
    return sorted(grid)[round(part * (len(grid) - 1))]
