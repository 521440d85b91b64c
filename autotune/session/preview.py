"""Dry run: preview a search without training or writing anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from autotune.backbones.base import Backbone
from autotune.backbones.inputs import some_inputs
from autotune.backbones.left_out import left_out
from autotune.errors import AutotuneError, first_line
from autotune.problem.budget import Cost
from autotune.problem.problem import Problem
from autotune.run.notebook import Preview
from autotune.run.preview import PlannedBaseline, PricedChoice, PricedUnit, UnitsPreview
from autotune.run.settings import OBJECT, Settings, read_settings
from autotune.session.costing import candidates_within, parse_budget
from autotune.session.setup import prepare_search, released
from autotune.session.sources import find_backbone, find_choices, find_space, leave_out
from autotune.study.selection.baselines import baseline_plans
from autotune.study.strategies import load_strategy
from autotune.study.strategies.score_source import ScoreSource
from autotune.training.estimate import estimate
from autotune.utils.events import warn

if TYPE_CHECKING:
    from autotune.backbones.units import Units
    from autotune.problem.problem import Candidates
    from autotune.problem.search_space import SearchSpace
    from autotune.session.setup import Setup


def preview(
    backbone: str | nn.Module | Backbone = "builtin:digits",
    task: Any = "builtin:digits",
    budget: str = "1%",
    **settings: Any,
) -> Preview:
    """Preview a `search` with the same `backbone`, `task`, `budget` and settings.

    The preview has units and choices with their costs, baselines, parts of the data, memory, and
    an upper bound on the time of the search, from a few timed steps. Nothing is trained or written,
    and the module is left unchanged. Raises what `search` raises for wrong input.
    """
    sources = {"backbone": _source(backbone), "task": _source(task), "budget": budget}
    resolved = read_settings({**sources, **settings})
    with released(prepare_search(resolved, backbone, task)) as setup:
        return _preview(setup)


def preview_units(settings: Settings) -> UnitsPreview:
    """Units, choices and costs of a backbone, from shapes alone."""
    backbone = find_backbone(settings, settings.backbone, shapes_only=True)
    backbone = _without_unused(settings, backbone)
    space, units = find_choices(settings, backbone, backbone.input)
    budget = parse_budget(settings, backbone)
    candidates = candidates_within(backbone, units, space, budget, Cost())
    problem = Problem.of(candidates, budget)
    return UnitsPreview(**_units(settings, backbone, space, units, candidates, problem))


def _without_unused(settings: Settings, backbone: Backbone) -> Backbone:
    """The backbone without what it does not use on random inputs, where these are described."""
    space = find_space(settings, backbone)
    if backbone.input is None:
        return leave_out(settings, backbone, space, [])
    device = next(backbone.network.parameters()).device
    try:
        return leave_out(settings, backbone, space, [some_inputs(backbone.input, 2).to(device)])
    except AutotuneError:
        raise
    except Exception as error:  # the network's code may raise anything
        warn(f"The network cannot run on random inputs, so all of it counts: {first_line(error)}")
        return leave_out(settings, backbone, space, [])


def _units(
    settings: Settings,
    backbone: Backbone,
    space: SearchSpace,
    units: Units,
    candidates: Candidates,
    problem: Problem,
) -> dict[str, Any]:
    """Fields of `UnitsPreview`."""
    sizes = {name: p.numel() for name, p in backbone.parameters().items()}
    priced = [
        PricedUnit(
            unit.name,
            sum(sizes[name] for name in unit.parameters),
            tuple(
                PricedChoice(choice.label, cost, problem.budget.fits(cost + problem.fixed))
                for choice, cost in candidates[unit.name].items()
            ),
        )
        for unit in units
        if unit.name in candidates
    ]
    return {
        "backbone": backbone.source,
        "space": space.family,
        "granularity": settings.granularity,
        "total": sum(sizes.values()),
        "left_out": left_out(backbone),
        "budget": problem.budget,
        "units": tuple(priced),
        "matches": units.matches,
    }


def _preview(setup: Setup) -> Preview:
    settings, task = setup.settings, setup.task
    problem = setup.problem
    plans = baseline_plans(problem, settings.seed)
    estimated = estimate(setup.engine)
    return Preview(
        **_units(settings, setup.backbone, setup.space, setup.units, setup.candidates, problem),
        task=task.source,
        classes=len(task.classes),
        parts={
            "train": len(task.train),
            "val": len(task.val or ()),
            "test": len(task.test or ()),
        },
        baselines={n: PlannedBaseline(plan, problem.cost(plan)) for n, plan in plans.items()},
        memory=estimated.memory,
        full_finetuning=estimated.full,
        at_most=_most_seconds(settings, estimated.full, len(plans) - 1),
    )


POLICY_STAGE_COST = 1.4
"""Upper bound on the cost of a policy's heads, proxies and supernet, in full fine-tunings."""


def _most_seconds(settings: Settings, full: float, n_baselines: int) -> float | None:
    """Upper bound in seconds, without pruning; None if the strategy decides when to end.

    Counts trials, three rates per baseline (the linear probe is cheap), and three trainings of
    finalists with further seeds.
    """
    if settings.most_trials is None:
        return None
    baselines = 3 * n_baselines if settings.references else 0
    learns = load_strategy(settings.strategy).score_source is ScoreSource.POLICY
    trainings = (settings.most_trials + baselines + 3) * (settings.folds or 1) / settings.n_workers
    return full * (trainings + (POLICY_STAGE_COST if learns else 0))


def _source(source: Any) -> str:
    return source if isinstance(source, str) else OBJECT
