"""Baselines of every search: plans that a user would have trained without one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from autotune.errors import TrialError
from autotune.problem.grids import three_rates
from autotune.problem.job import Job
from autotune.problem.plan import Plan
from autotune.problem.problem import Problem
from autotune.problem.recipes import uniform_placement
from autotune.problem.sampling import random_placement
from autotune.study.backends.base import Backend
from autotune.study.driver import Driver
from autotune.study.selection.extra_jobs import Test, best_job, deliver_whole, forget_jobs
from autotune.study.stages import BASELINE, Baseline
from autotune.study.writer import Writer
from autotune.utils.events import tell, warn

PROBE, UNIFORM = "probe", "uniform"
CONTROL = "random"
"""Random placement, a pure control; the probe and uniform low rank may become the answer."""


def baseline_plans(problem: Problem, seed: int) -> dict[str, Plan]:
    """Name → plan: linear probe, uniform low rank and one random placement of the same budget."""
    plans = {PROBE: Plan(), UNIFORM: uniform_placement(problem)}
    plans[CONTROL] = random_placement(problem, seed)
    if not plans[UNIFORM].choices:
        warn("The space has no low-rank choice that fits, so there is no uniform baseline.")
        del plans[UNIFORM]
    return plans


def run_baselines(driver: Driver, backend: Backend, test: Test) -> None:
    """Run baselines that are not yet recorded, each at three learning rates.

    The best rate on validation is recorded. A baseline that fails at all of them is left out.
    """
    for name, plan in baseline_plans(driver.problem, driver.options.seed).items():
        if name in driver.baselines:
            continue
        try:
            _run(name, plan, driver, backend, test)
        except TrialError as error:
            warn(f"The baseline {name} is left out: {error}", name=name)


def _run(name: str, plan: Plan, driver: Driver, backend: Backend, test: Test) -> None:
    """Train one baseline at the rates that the preparation did not try, and record it."""
    probe, begun = driver.baselines.get(PROBE), driver.begun_baseline(name)
    head = probe.hyperparameters["lr:head"] if probe else None
    rates = three_rates(driver.options.grids, plan, head)
    if begun is None or begun.plan != plan:
        begun, remaining = None, rates
    else:
        remaining = rates[:-2]  # the preparation has compared the middle and the highest rate
    jobs = baseline_jobs(name, plan, remaining, driver.options.seed)
    trained = train_baseline(name, jobs, backend, test, driver) if jobs else None
    best = _better(begun, trained)
    cost, fits = driver.problem.cost(plan), driver.problem.fits(plan)
    driver.record(f"{BASELINE}:{name}", replace(best, cost=cost, fits=fits))
    forget_jobs(jobs, driver)


def _better(begun: Baseline | None, trained: Baseline | None) -> Baseline:
    """The better of the two on validation, with the seconds of both."""
    known = [baseline for baseline in (begun, trained) if baseline is not None]
    best = max(known, key=lambda baseline: baseline.value)
    return replace(best, seconds=sum(baseline.seconds for baseline in known))


def baseline_jobs(
    name: str, plan: Plan, rates: Sequence[Mapping[str, float]], seed: int
) -> list[Job]:
    """One job for each set of hyperparameters in `rates`."""
    return [Job(f"baseline {name} {i}", plan, tried, seed) for i, tried in enumerate(rates)]


def train_baseline(
    name: str, jobs: Sequence[Job], backend: Backend, test: Test, writer: Writer
) -> Baseline:
    """Train jobs and return the best on validation, as a baseline without costs.

    Raises `TrialError` if all of them fail.
    """
    trained = best_job(jobs, backend, writer)
    job, last = trained.job, trained.last
    artifact = last.artifact or deliver_whole(job, backend, writer)
    tell(
        "reference",
        f"baseline {name}: {last.value:.4f} on validation",
        name=name,
        value=last.value,
    )
    return Baseline(
        plan=job.plan,
        hyperparameters=job.hyperparameters,
        value=last.value,
        test=test(artifact),
        metrics=last.metrics,
        folds=last.folds,
        curve=trained.curve,
        seconds=trained.seconds,
    )
