"""Plain values of a dry run: units and choices with their costs, baselines, estimated time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from autotune.backbones.left_out import LeftOut
from autotune.backbones.units import Match
from autotune.problem.budget import Budget, Cost
from autotune.problem.plan import Plan


@dataclass(frozen=True)
class PricedChoice:
    """A choice of a unit with its cost."""

    label: str
    cost: Cost
    fits: bool
    """Whether the budget allows the choice if all other units stay frozen."""


@dataclass(frozen=True)
class PricedUnit:
    """A unit or span with all of its choices."""

    name: str
    parameters: int
    choices: tuple[PricedChoice, ...]


@dataclass(frozen=True)
class UnitsPreview:
    """Units of a backbone with their choices under a budget."""

    backbone: str
    space: str
    """Family of the search space."""

    granularity: str
    total: int
    """Parameters of the backbone in use, without its head."""

    left_out: tuple[LeftOut, ...]
    """Modules and parameters that are never offered, with the reason."""

    budget: Budget
    units: tuple[PricedUnit, ...] = field(repr=False)
    matches: tuple[Match, ...] = field(repr=False)
    """Number of modules and parameters that each pattern of the space matched."""

    def to_json(self) -> dict[str, Any]:
        """The JSON value that `autotune units --json` prints."""
        budget = self.budget
        return {
            "backbone": self.backbone,
            "space": self.space,
            "granularity": self.granularity,
            "total": self.total,
            "left_out": [asdict(part) for part in self.left_out],
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
    """A baseline that would be trained for comparison."""

    plan: Plan
    cost: Cost


@dataclass(frozen=True)
class BarePreview(UnitsPreview):
    """Outcome of a dry run, for which nothing was trained or written."""

    task: str
    classes: int
    parts: Mapping[str, int]
    """Number of examples in `train`, `val` and `test`."""

    baselines: Mapping[str, PlannedBaseline] = field(repr=False)
    memory: int
    """Peak memory so far in bytes: allocated on the GPU if one is used, else resident in RAM."""

    full_finetuning: float
    """Estimated time of one full fine-tuning on this machine, in seconds."""

    at_most: float | None
    """Estimated time of the search without pruning, in seconds; None if the strategy ends it."""

    def to_json(self) -> dict[str, Any]:
        """The JSON value that `autotune search --dry-run --json` prints."""
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


def _unit_to_json(unit: PricedUnit) -> dict[str, Any]:
    choices = [{"label": c.label, **asdict(c.cost), "fits": c.fits} for c in unit.choices]
    return {"name": unit.name, "parameters": unit.parameters, "choices": choices}
