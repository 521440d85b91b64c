"""What a search would do, as plain values: units and choices with costs, baselines, time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from autotune.backbones.units import Match
from autotune.problem.budget import Budget, Cost
from autotune.problem.plan import Plan


@dataclass(frozen=True)
class PricedChoice:
    """One choice of a unit."""

    label: str
    cost: Cost
    fits: bool
    """Whether the budget allows it alone."""


@dataclass(frozen=True)
class PricedUnit:
    """A unit or span with everything that it may take."""

    name: str
    parameters: int
    choices: tuple[PricedChoice, ...]


@dataclass(frozen=True)
class UnitsPreview:
    """Units of a backbone with their choices, within a budget."""

    backbone: str
    space: str
    """Family of the search space."""

    granularity: str
    total: int
    """Parameters of the backbone in use, without its head."""

    left_out: Mapping[str, int]
    """Reason (`unused`, `protected`) → number of parameters that are never offered."""

    budget: Budget
    units: tuple[PricedUnit, ...] = field(repr=False)
    matches: tuple[Match, ...] = field(repr=False)
    """Number of modules and parameters that each pattern of the space matched."""

    def to_json(self) -> dict[str, Any]:
        """What `autotune units --json` prints."""
        budget = self.budget
        return {
            "backbone": self.backbone,
            "space": self.space,
            "granularity": self.granularity,
            "total": self.total,
            "left_out": dict(self.left_out),
            "budget": {
                "limit": budget.limit,
                "total": budget.total,
                "measure": budget.measure.value,
                "text": budget.text,
            },
            "units": [_unit_to_json(unit) for unit in self.units],
            "matches": [asdict(match) for match in self.matches],
        }


@dataclass(frozen=True)
class PlannedBaseline:
    """What would be trained for comparison."""

    plan: Plan
    cost: Cost


@dataclass(frozen=True)
class Preview(UnitsPreview):
    """What a search would do; nothing was trained or written for it."""

    task: str
    classes: int
    parts: Mapping[str, int]
    """Examples of `train`, `val` and `test`."""

    baselines: Mapping[str, PlannedBaseline] = field(repr=False)
    memory: int
    """Largest resident memory of this process so far, in bytes; of the GPU where there is one."""

    full_finetuning: float
    """Estimated seconds of one full fine-tuning on this machine."""

    at_most: float | None
    """Estimated seconds of the search without pruning; None where the strategy ends it."""

    def to_json(self) -> dict[str, Any]:
        """What `autotune search --dry-run --json` prints."""
        return {
            **super().to_json(),
            "task": {"source": self.task, "classes": self.classes, **self.parts},
            "references": {
                name: {"plan": str(baseline.plan), **asdict(baseline.cost)}
                for name, baseline in self.baselines.items()
            },
            "memory_bytes": self.memory,
            "full_finetuning_seconds": self.full_finetuning,
            "at_most_seconds": self.at_most,
        }

    def _repr_html_(self) -> str:
        """The units and what a search would take, in a notebook."""
        from autotune.run.report.dry_run import sections

        return "".join(section.to_html() for section in sections(self))


def _unit_to_json(unit: PricedUnit) -> dict[str, Any]:
    choices = [{"label": c.label, **asdict(c.cost), "fits": c.fits} for c in unit.choices]
    return {"name": unit.name, "parameters": unit.parameters, "choices": choices}
