"""Comparison of a finished search with other recipes, each over several seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import mean, stdev
from typing import Any

import optuna

from autotune.errors import TrialError
from autotune.problem.budget import Cost
from autotune.problem.grids import Grids
from autotune.problem.job import Job
from autotune.problem.plan import Plan
from autotune.problem.problem import Problem
from autotune.problem.sampling import seed_of
from autotune.study.backends.base import Backend
from autotune.study.driver import Driver
from autotune.study.paired import Difference, Values, paired
from autotune.study.reader import Records
from autotune.study.selection.baselines import PROBE
from autotune.study.selection.extra_jobs import (
    Test,
    best_job,
    deliver_whole,
    forget_jobs,
    tested_as,
)
from autotune.study.selection.finalists import values_of
from autotune.study.stages import COMPARED, Compared
from autotune.study.strategies import STRATEGIES
from autotune.study.strategies.base import hyperparameters_of, plan_of, search_space
from autotune.utils.events import tell, warn

WINNER = "autotune"
FULL = "full fine-tuning"
NAMES = (
    *(WINNER, PROBE, "uniform", "random", "random 2", "random 3", "last-k"),
    *("norms only", "biases only", "random search", "LP-FT", FULL),
)
"""Names of all recipes, in the order of the comparison's table."""


@dataclass(frozen=True)
class ComparedRecipe:
    """Recipe whose best training on validation is repeated with other seeds."""

    name: str
    tried: Sequence[tuple[Plan, Mapping[str, float]]]
    """Plans with hyperparameters: one plan at several rates, or random plans."""

    costs: Mapping[str, Cost]
    """Digest of a plan → its cost."""

    head_rate: float | None = None
    """Learning rate of a linear probe that is trained first, to initialise the head.

    For LP-FT (arXiv 2202.10054); None starts from the usual head.
    """

    def jobs(self, seed: int) -> list[Job]:
        """Jobs of all plans and hyperparameters, of which the best will be chosen."""
        return [self.job(plan, rates, seed, str(i)) for i, (plan, rates) in enumerate(self.tried)]

    def job(self, plan: Plan, rates: Mapping[str, float], seed: int, part: str = "") -> Job:
        name = " ".join(filter(None, ("comparison", self.name, part, f"seed {seed}")))
        return Job(name, plan, rates, seed, head_rate=self.head_rate)


@dataclass(frozen=True)
class ComparisonRow:
    """One line of a comparison."""

    name: str
    label: str
    """Label of the plan."""

    cost: Cost
    fits: bool
    values: Values
    """(seed, fold) → value on validation."""

    tests: Mapping[int, float]
    """Seed → metric on the test part."""

    trainings: int
    seconds: float
    """Duration of all trainings, including those that chose the learning rates."""

    @property
    def validation(self) -> tuple[float, float]:
        """Mean and sample standard deviation over seeds."""
        seeds = sorted({seed for seed, _ in self.values})
        return _spread([mean(v for (s, _), v in self.values.items() if s == n) for n in seeds])

    @property
    def test(self) -> tuple[float, float]:
        """Mean and sample standard deviation over seeds."""
        return _spread([*self.tests.values()])

    def to_json(self) -> dict[str, Any]:
        validation, test = self.validation, self.test
        return {
            "name": self.name,
            "label": self.label,
            "cost": asdict(self.cost),
            "fits": self.fits,
            "seeds": len(self.tests),
            "validation": {"mean": validation[0], "std": validation[1]},
            "test": {"mean": test[0], "std": test[1]},
            "trainings": self.trainings,
            "seconds": self.seconds,
        }


def run_comparison(
    driver: Driver,
    backend: Backend,
    recipes: Sequence[ComparedRecipe],
    seeds: Sequence[int],
    test: Test,
) -> None:
    """Train recipes with every seed that is not recorded; a recipe that fails is left out."""
    tell("stage", "Comparison", stage="comparison", total=len(recipes))
    for recipe in recipes:
        try:
            _run(driver, backend, recipe, seeds, test)
        except TrialError as error:
            warn(f"{recipe.name} is left out: {error}", name=recipe.name)


def random_trials(
    problem: Problem, grids: Grids, seed: int, n: int
) -> list[tuple[Plan, dict[str, float]]]:
    """`n` plans with hyperparameters that the strategy `random` proposes."""
    sampler = STRATEGIES.load("random")(problem, grids, seed=seed_of(seed, "comparison"))
    study, space = optuna.create_study(sampler=sampler), search_space(problem, grids)
    drawn = [study.ask(dict(space)).params for _ in range(n)]
    return [(plan_of(problem, params), hyperparameters_of(params)) for params in drawn]


def comparison_rows(records: Records, metric: str) -> list[ComparisonRow]:
    """Rows of all compared recipes, in the order of `NAMES`."""
    by_name: dict[str, dict[int, Compared]] = {}
    for (name, seed), compared in records.compared.items():
        by_name.setdefault(name, {})[seed] = compared
    rows = [_row(name, dict(sorted(by_seed.items())), metric) for name, by_seed in by_name.items()]
    return sorted(rows, key=lambda row: NAMES.index(row.name))


def _row(name: str, by_seed: Mapping[int, Compared], metric: str) -> ComparisonRow:
    first = next(iter(by_seed.values()))
    return ComparisonRow(
        name,
        str(first.plan),
        first.cost,
        first.fits,
        {key: v for seed, one in by_seed.items() for key, v in one.values(seed).items()},
        {seed: one.test[tested_as(one.test, metric)] for seed, one in by_seed.items()},
        sum(one.trainings for one in by_seed.values()),
        sum(one.seconds for one in by_seed.values()),
    )


def recommended(rows: Sequence[ComparisonRow]) -> ComparisonRow:
    """Cheapest recipe within the budget that is not distinguishable from the best one.

    Only validation values count.
    """
    fitting = [row for row in rows if row.fits]
    best = max(fitting, key=lambda row: row.validation[0])
    equal = [row for row in fitting if row is best or not against(best, row).is_distinguishable]
    return min(equal, key=lambda row: (row.cost.parameters, -row.validation[0]))


def against(first: ComparisonRow, second: ComparisonRow) -> Difference:
    """Paired difference of the first to the second on validation."""
    return paired(first.values, second.values)


def _run(
    driver: Driver, backend: Backend, recipe: ComparedRecipe, seeds: Sequence[int], test: Test
) -> None:
    jobs = recipe.jobs(seeds[0])
    for seed in seeds:
        compared = driver.compared.get((recipe.name, seed))
        if compared is None:
            known = _known(driver, recipe.name, seed)
            compared = known or _trained(recipe, jobs, driver, backend, test)
            driver.record(f"{COMPARED}:{recipe.name}:{seed}", compared)
            forget_jobs(jobs, driver)
            tell("rival", f"{recipe.name}, seed {seed}: {compared.value:.4f} on validation")
        jobs = [recipe.job(compared.plan, compared.hyperparameters, seed + 1)]


def _trained(
    recipe: ComparedRecipe, jobs: list[Job], driver: Driver, backend: Backend, test: Test
) -> Compared:
    trained = best_job(jobs, backend, driver)
    job, last = trained.job, trained.last
    artifact = last.artifact or deliver_whole(job, backend, driver)
    cost = recipe.costs[job.plan.digest]
    return Compared(
        plan=job.plan,
        hyperparameters=job.hyperparameters,
        value=last.value,
        test=test(artifact),
        metrics=last.metrics,
        folds=last.folds,
        cost=cost,
        fits=driver.problem.budget.fits(cost + driver.problem.fixed),
        seconds=trained.seconds,
        trainings=len(jobs),
    )


def _known(driver: Driver, name: str, seed: int) -> Compared | None:
    """Training of a recipe with this seed by the search itself; None if it has not run it."""
    if name == WINNER:
        return _of_winner(driver, seed)
    baseline = driver.baselines.get(name) if seed == driver.seed else None
    return None if baseline is None else Compared.known(baseline)


def _of_winner(driver: Driver, seed: int) -> Compared | None:
    final = driver.final
    assert final is not None
    if final.values is None or final.tests is None:
        return _known(driver, PROBE, seed)
    if seed not in final.values.by_seed:
        return None
    winner = next(record for record in driver.trials if record.number == final.number)
    by_fold = [v for (s, _), v in sorted(values_of(driver, winner).items()) if s == seed]
    metric = tested_as(final.test, driver.metric)
    return Compared(
        plan=final.plan,
        hyperparameters=final.hyperparameters,
        value=final.values.by_seed[seed],
        test={metric: final.tests.by_seed[seed]},
        folds=tuple(by_fold) if len(by_fold) > 1 else (),
        cost=final.cost,
    )


def _spread(values: Sequence[float]) -> tuple[float, float]:
    return mean(values), stdev(values) if len(values) > 1 else 0.0
