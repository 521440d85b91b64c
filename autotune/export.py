"""What a search chose, for people who never heard of autotune: the mask of a plan."""

from __future__ import annotations

from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from autotune.api import Study
from autotune.artifact import read_artifact
from autotune.backbones.base import Backbone
from autotune.backbones.inputs import read_input
from autotune.backbones.units import Units
from autotune.candidates import new_delta, plan_cost
from autotune.deltas.site import Site, sites
from autotune.errors import RunError
from autotune.plan import Plan
from autotune.setup import find_backbone, find_choices

FORMAT = 1


def export_mask(study: Study, backbone: Any = None) -> tuple[dict[str, Any], bytes]:
    """The mask of the winning plan: JSON, and safetensors with a boolean tensor per parameter.

    `parameters` of a unit are those whose tuned (merged) value may differ from the backbone's;
    the tensors have the parameters' shapes and are true there. `backbone` is needed for a run
    that began from Python objects.
    """
    plan, settings = study.best.plan, study.settings
    source = backbone if backbone is not None else settings.backbone
    if source == "object":
        raise RunError(
            f"{study.folder.path} began from Python objects, so its backbone is not known here. "
            "Export it with autotune.export.export_mask(study, backbone)."
        )
    found = find_backbone(settings, source, shapes_only=True)
    described = read_artifact(study.best.artifact).header["input"]
    input = read_input(described, source="the artifact") if described else None
    _, units = find_choices(settings, found, input)
    places = sites(found.network, units, units.flow)
    changed = {unit.name: _changed(places[unit.name], plan) for unit in units}
    return _mask(study, found, units, plan, places, changed), save(_tensors(found, changed))


def _changed(site: Site, plan: Plan) -> list[str]:
    names = {
        slot.name for method in plan[site.name].methods for slot in new_delta(method).changes(site)
    }
    return [slot.name for slot in site.slots if slot.name in names]


def _mask(
    study: Study,
    backbone: Backbone,
    units: Units,
    plan: Plan,
    places: dict[str, Site],
    changed: dict[str, list[str]],
) -> dict[str, Any]:
    status = study.status()
    keys = ("limit", "total", "measure", "text")
    return {
        "format": FORMAT,
        "backbone": backbone.source,
        "fingerprint": study.identity["backbone's fingerprint"],
        "budget": {key: status["budget"][key] for key in keys},
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


def _tensors(backbone: Backbone, changed: dict[str, list[str]]) -> dict[str, Tensor]:
    chosen = {name for names in changed.values() for name in names}
    return {
        name: torch.full(parameter.shape, name in chosen)
        for name, parameter in backbone.parameters().items()
    }
