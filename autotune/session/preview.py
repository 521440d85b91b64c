"""What a search would do: units, choices, costs, references, time. Nothing is written."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autotune.run.settings import Settings


def units_to_json(settings: Settings) -> dict[str, Any]:
    """Units, choices and costs of a backbone, from shapes alone."""
    from autotune.problem.budget import Cost
    from autotune.session.setup import (
        candidates_within,
        find_backbone,
        find_choices,
        parse_budget,
    )

    backbone = find_backbone(settings, settings.backbone, shapes_only=True)
    space, units = find_choices(settings, backbone, backbone.input)
    budget = parse_budget(settings, backbone)
    candidates = candidates_within(backbone, units, space, budget, Cost())
    sizes = {name: p.numel() for name, p in backbone.parameters().items()}
    return {
        "backbone": backbone.source,
        "space": space.family,
        "granularity": settings.granularity,
        "total": sum(sizes.values()),
        "budget": {
            "limit": budget.limit,
            "total": budget.total,
            "measure": budget.measure.value,
            "text": budget.text,
        },
        "units": [
            {
                "name": unit.name,
                "parameters": sum(sizes[name] for name in unit.parameters),
                "choices": [
                    {"label": c.label, **asdict(cost), "fits": budget.fits(cost)}
                    for c, cost in candidates[unit.name].items()
                ],
            }
            for unit in units
            if unit.name in candidates
        ],
        "matches": [asdict(match) for match in units.matches],
    }


def search_to_json(settings: Settings) -> dict[str, Any]:
    """What a search would do: units, references, data, memory and time; nothing is written."""
    from autotune.session.setup import prepare_search
    from autotune.session.workers import require_one_gpu
    from autotune.study.selection.baselines import baseline_plans
    from autotune.training.estimate import estimate

    require_one_gpu(settings)
    setup = prepare_search(settings, settings.backbone, settings.task)
    try:
        problem = setup.problem
        plans = baseline_plans(problem, settings.seed)
        seconds = estimate(setup.engine)
        most = _most_seconds(settings, seconds.full, len(plans) - 1)
        parts = {
            "train": len(setup.task.train),
            "val": len(setup.task.val or ()),
            "test": len(setup.task.test or ()),
        }
        return {
            **units_to_json(settings),
            "task": {"source": setup.task.source, "classes": len(setup.task.classes), **parts},
            "references": {
                name: {"plan": str(plan), **asdict(problem.cost(plan))}
                for name, plan in plans.items()
            },
            "memory_bytes": seconds.memory,
            "full_finetuning_seconds": seconds.full,
            "at_most_seconds": most,
        }
    finally:
        setup.engine.close()


POLICY_STAGE_COST = 1.4
"""What heads, proxies and the supernet of a policy may cost, in full fine-tunings."""


def _most_seconds(settings: Settings, full: float, n_baselines: int) -> float | None:
    """Of a search with so many references beside the probe; None where it ends by itself."""
    from autotune.study.strategies import load_strategy
    from autotune.study.strategies.score_source import ScoreSource

    if settings.most_trials is None:
        return None
    baselines = 3 * n_baselines if settings.references else 0
    learns = load_strategy(settings.strategy).score_source is ScoreSource.POLICY
    trainings = (settings.most_trials + baselines + 3) * (settings.folds or 1) / settings.n_workers
    return full * (trainings + (POLICY_STAGE_COST if learns else 0))
