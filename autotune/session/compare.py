"""`compare`: run a finished search against recipes that need no search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import nn

from autotune.backbones.base import Backbone
from autotune.backbones.heads.copies import n_classes
from autotune.backbones.heads.factory import HeadFactory
from autotune.deltas.apply import tuned
from autotune.deltas.artifact import read_artifact
from autotune.deltas.costs import everywhere
from autotune.deltas.surgery import exchanged
from autotune.errors import ConfigError, TaskError, unknown
from autotune.problem.budget import Cost
from autotune.problem.grids import Grids, middle, three_rates
from autotune.problem.job import used
from autotune.problem.plan import Choice, Plan
from autotune.problem.problem import Problem
from autotune.problem.recipes import last_units, uniform_placement
from autotune.problem.sampling import random_placement
from autotune.run.notebook import Study
from autotune.run.settings import load_space
from autotune.session.api import reopened
from autotune.session.driving import driving, owned
from autotune.session.setup import Setup, released
from autotune.session.sources import data_options
from autotune.study.driver import Driver
from autotune.study.selection.baselines import PROBE
from autotune.study.selection.comparison import (
    FULL,
    NAMES,
    WINNER,
    ComparedRecipe,
    ComparisonRow,
    against,
    random_trials,
    recommended,
    run_comparison,
)
from autotune.tasks import load_task
from autotune.tasks.loading import PartFeed, check_fits, infer_input
from autotune.training.loop import Recipe, evaluate


@dataclass(frozen=True)
class Comparison:
    """A finished search and the recipes it is compared with, each over the same seeds."""

    rows: list[ComparisonRow]
    """Rows of the comparison, the answer of the search first."""

    recommended: str
    """Name of the cheapest row that is not distinguishable from the best within the budget."""

    full: float | None
    """Seconds of one full fine-tuning as measured here; None if it did not run."""

    seconds: float
    """Seconds of the search without its control baseline."""

    source: dict[str, Any] | None
    """Accuracy on the source task with the delta off and on; None if no task was given."""

    def to_json(self) -> dict[str, Any]:
        """Output of `autotune compare --json`: rows, each with the answer's gain over it."""
        ours, *others = self.rows
        rows = [ours.to_json(), *({**r.to_json(), **_against(ours, r)} for r in others)]
        return {
            "rows": rows,
            "recommended": self.recommended,
            "full_finetuning_seconds": self.full,
            "search_seconds": self.seconds,
            "source": self.source,
        }


def compare(
    run: str | Path,
    backbone: str | nn.Module | Backbone | None = None,
    task: Any = None,
    *,
    seeds: int = 3,
    only: Sequence[str] = (),
    source: str | None = None,
    workers: int | None = None,
    device: str | None = None,
    head_factory: str | HeadFactory | None = None,
    storage: str | None = None,
    address: str | None = None,
) -> Comparison:
    """Compare a finished search with other recipes over the same seeds; run what is missing.

    In addition to the answer and the search's baselines, these are two more random placements,
    last-k, norms only, biases only, LP-FT, full fine-tuning, and random search with equal compute.
    Each recipe takes the best on validation of three learning rates with the study's seed, and is
    repeated with the next seeds. `only` selects recipes by name; `source` is a task that the
    backbone's own head was trained for; `workers` and `device` replace the run's settings. A run
    that began from objects needs the same `backbone` and `task` again, and one with a
    `head_factory` needs that; `storage` and `address` are those of `resume`. Raises `RunError`
    while the search has not ended, `ConfigError` for an unknown recipe, `TaskError` for a source
    task with another number of classes.
    """
    study = Study(run, storage=storage)
    study.best  # noqa: B018  (raises while the search has not ended)
    study.folder.require_writable()
    if unlisted := [name for name in only if name not in NAMES]:
        raise ConfigError(unknown("recipe", unlisted[0], NAMES))
    chosen = [name for name in NAMES if not only or name in (WINNER, *only)]
    with (
        released(
            reopened(
                study,
                backbone,
                task,
                head_factory,
                workers=workers,
                device=device,
                address=address,
            )
        ) as setup,
        owned(study.folder, setup, command="compare") as writer,
        driving(setup, writer) as (driver, backend),
    ):
        recipes = [recipe for name in chosen if (recipe := _recipe(name, setup, driver, study))]
        first = study.settings.seed
        run_comparison(driver, backend, recipes, range(first, first + seeds), setup.engine.test)
    rows = study.comparison
    full = next((row for row in rows if row.name == FULL), None)
    return Comparison(
        rows=rows,
        recommended=recommended(rows).name,
        full=full.seconds / full.trainings if full else None,
        seconds=study.own_seconds,
        source=_on_source(study, setup.backbone, source) if source else None,
    )


def _against(answer: ComparisonRow, other: ComparisonRow) -> dict[str, Any]:
    return {"autotune_gains": against(answer, other).to_json()}


def _recipe(name: str, setup: Setup, driver: Driver, study: Study) -> ComparedRecipe | None:
    """Recipe of a name in `NAMES`; None if the space or the network offers no plan for it."""
    problem, seed, final = driver.problem, study.settings.seed, driver.final
    assert final is not None
    if name == WINNER:
        costs = {final.plan.digest: final.cost}
        return ComparedRecipe(name, [(final.plan, final.hyperparameters)], costs)
    head = _head_rate(driver)
    if name == "random search":
        n = _equal_compute(study)
        trials = random_trials(problem, setup.grids, seed, n)
        return ComparedRecipe(name, trials, {plan.digest: problem.cost(plan) for plan, _ in trials})
    plan, cost = _plan(name, setup, problem, seed)
    if not plan.choices and name != PROBE:
        return None
    candidates = three_rates(_grids(setup), plan, head)
    return ComparedRecipe(
        name,
        [(plan, used(plan, hyperparameters)) for hyperparameters in candidates],
        {plan.digest: cost},
        head_rate=(head or middle(setup.grids["lr:head"])) if name == "LP-FT" else None,
    )


def _plan(name: str, setup: Setup, problem: Problem, seed: int) -> tuple[Plan, Cost]:
    network, units = setup.backbone.network, setup.units
    parts = {"norms only": "norms", "biases only": "biases", "LP-FT": "all", FULL: "all"}
    if name in parts:
        return everywhere(network, units, Choice.of("subtune", what=parts[name]))
    names = [unit.name for unit in units if not unit.is_span() and unit.name in problem.units]
    plan = {
        PROBE: lambda: Plan(),
        "uniform": lambda: uniform_placement(problem),
        "last-k": lambda: last_units(problem, names),
        "random": lambda: random_placement(problem, seed),
        "random 2": lambda: random_placement(problem, seed + 1),
        "random 3": lambda: random_placement(problem, seed + 2),
    }[name]()
    return plan, problem.cost(plan)


def _grids(setup: Setup) -> Grids:
    """Grids of the study; without one for `subtune`, also that of its space or its family's."""
    spaces = setup.space, load_space(setup.backbone.family)
    rates = next(r for s in spaces if (r := s.hyperparameters.lr.get("subtune")))
    return {"lr:subtune": tuple(rates), **setup.grids}


def _head_rate(driver: Driver) -> float | None:
    probe = driver.baselines.get(PROBE)
    return probe.hyperparameters["lr:head"] if probe else None


def _equal_compute(study: Study) -> int:
    """Number of random trials that take as long as all trainings of the search."""
    complete = [t.seconds for t in study.trials if t.is_complete and t.repeat_of is None]
    return max(1, round(study.training_seconds / mean(complete))) if complete else 1


def _on_source(study: Study, backbone: Backbone, source: str) -> dict[str, Any]:
    """Accuracy of the backbone's original head on its original task, with the delta off and on."""
    options = replace(data_options(study.settings), group=None)  # levels of the run's own folders
    task = load_task(source, backbone.input, options).split(study.settings.seed)
    part, head = task.test, backbone.network.get_submodule(backbone.head)
    assert part is not None
    classes = n_classes(head)
    if len(task.classes) != classes:
        raise TaskError(
            f"A source task must have the {classes} classes of the backbone's own head, "
            f"{source} has {len(task.classes)}. Name another --source."
        )
    input = infer_input(task.train, task.input or backbone.input)
    check_fits(part, input, source)
    device = str(next(backbone.network.parameters()).device)
    recipe = Recipe(batch_size=study.settings.batch_size, device=device)
    network = backbone.network
    examples = PartFeed(part, input, torch.device(device))
    with (
        tuned(backbone, read_artifact(study.best.artifact)),
        exchanged(network, backbone.head, head),
    ):
        on = evaluate(network, examples, recipe)
    off = evaluate(network.eval(), examples, recipe)
    return {
        "task": source,
        "n": len(part),
        "off": off["accuracy"],
        "on": on["accuracy"],
    }
