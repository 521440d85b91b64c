"""Format `mask`: the units that a plan selects and the parameters it may change, as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from autotune.backbones.units import Units
from autotune.deltas.costs import new_delta, plan_cost
from autotune.deltas.site import Site, sites
from autotune.deploy.export.base import Format, Subject
from autotune.problem.plan import Plan
from autotune.utils.files import write_whole

MASK_FORMAT = 1


@dataclass(frozen=True)
class Mask(Format):
    """JSON description of every unit, and optionally boolean masks of the parameters.

    `parameters` of a unit lists those whose tuned (merged) values may differ from the backbone's.
    With `tensors`, a safetensors file is written as well: one boolean tensor per parameter, of the
    parameter's shape, true for the listed ones.
    """

    file = "mask.json"
    has_network = False

    tensors: Path | None = None

    def write(self, subject: Subject, path: Path) -> None:
        units = subject.units()
        places = sites(subject.backbone.network, units, units.flow)
        plan = subject.artifact.plan
        changed = {unit.name: _changed(places[unit.name], plan) for unit in units}
        mask = _mask(subject, units, places, changed)
        path.write_text(json.dumps(mask, indent=2) + "\n")
        if self.tensors is not None:
            write_whole(self.tensors, _tensors(subject, changed))

    def outputs(self, subject: Subject, path: Path) -> None:
        """Return None: a mask contains no network."""


def _changed(site: Site, plan: Plan) -> list[str]:
    names = {
        slot.name for method in plan[site.name].methods for slot in new_delta(method).changes(site)
    }
    changed = [slot for slot in site.slots if slot.name in names]
    return [parameter.name for slot in changed for parameter in slot.parameters()]


def _mask(
    subject: Subject, units: Units, places: dict[str, Site], changed: dict[str, list[str]]
) -> dict[str, Any]:
    plan = subject.artifact.plan
    return {
        "format": MASK_FORMAT,
        "backbone": subject.backbone.source,
        "about": subject.artifact.header.get("about", {}),
        "fingerprint": subject.artifact.fingerprint,
        "budget": subject.budget(),
        "units": {
            unit.name: {
                "selected": unit.name in plan.choices,
                "label": plan[unit.name].label,
                "methods": [method.to_json() for method in plan[unit.name].methods],
                "cost": plan_cost(places, Plan({unit.name: plan[unit.name]})).parameters,
                "parameters": changed[unit.name],
            }
            for unit in units
        },
    }


def _tensors(subject: Subject, changed: dict[str, list[str]]) -> bytes:
    chosen = {name for names in changed.values() for name in names}
    tensors = {
        name: torch.full(parameter.shape, name in chosen)
        for name, parameter in subject.backbone.parameters().items()
    }
    metadata = {key: json.dumps(value) for key, value in subject.provenance("mask").items()}
    return save(tensors, metadata)
