"""Writes `tests/data/formats/VERSION`, once for each version: `python -m formats.write` in tests/.

What is there already is never written again: later versions must read it as it is.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

import autotune
from autotune.backbones.dataflow import trace
from autotune.backbones.units import find_units
from autotune.deltas.apply import tuned
from autotune.deltas.artifact import Artifact, to_bytes
from autotune.deltas.attach import Deltas
from autotune.deploy.export import FORMATS
from autotune.deploy.export.base import Subject, written
from autotune.deploy.export.mask import Mask
from autotune.problem.plan import Choice, Plan
from autotune.run.settings import read_settings

from .network import SHAPE, numbers, small

FOLDER = Path(__file__).parent.parent / "data" / "formats"
PLANS = {
    "delta": Plan(
        {
            "stem": Choice.of("lowrank", rank=2),
            "first": Choice.of("subtune", what="norms") + Choice.of("lowrank", rank=1),
            "second": Choice.of("scale"),
        }
    ),
    "path": Plan({"first": Choice.of("res_adapter", width=2)}),
}


def artifact(plan: Plan, *, prepared: bool) -> Artifact:
    backbone = small()
    network = backbone.network
    units, flow = find_units(backbone, "tree"), trace(network, backbone.input)
    deltas = Deltas(network, units, plan, seed=0, flow=flow)
    tensors: dict[str, Tensor] = {f"delta/{name}": t for name, t in deltas.tensors().items()}
    deltas.detach()
    tensors |= {"head/weight": torch.zeros(3, 4), "head/bias": torch.zeros(3)}
    if prepared:
        tensors |= {f"buffer/{n}": b for n, b in network.named_buffers() if "running_var" in n}
    filled = {
        name: numbers(t.numel(), 1000 + 10 * at).view_as(t).abs() + 0.5
        for at, (name, t) in enumerate(sorted(tensors.items()))
    }
    header = {
        "input": backbone.input.to_json(),
        "cost": asdict(deltas.predicted),
        "metrics": {"val": {"accuracy": 0.75}},
        "task": {"source": "none", "classes": ["a", "b", "c"]},
        "about": {"head": "fc", "backbone": "small", "budget": "50%", "space": "any"},
    }
    tuned_units = tuple(unit for unit in units if unit.name in plan.choices)
    return Artifact(plan, tuned_units, backbone.fingerprint, filled, header)


def main() -> None:
    folder = FOLDER / autotune.__version__
    folder.mkdir(parents=True)
    x, expected = numbers(3 * 72).view(3, *SHAPE), {}
    for name, plan in PLANS.items():
        made = artifact(plan, prepared=name == "delta")
        (folder / f"{name}.safetensors").write_bytes(to_bytes(made))
        with tuned(small(), made) as network, torch.no_grad():
            expected[name] = network(x).tolist()
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    settings = read_settings({"budget": "50%", "space": "any"})
    subject = Subject(small(), artifact(PLANS["delta"], prepared=True), settings)
    written(Mask(folder / "mask.safetensors"), subject, folder / "mask.json")
    for form in ("merged", "peft"):
        written(FORMATS.load(form)(), subject, folder / FORMATS.load(form).file)


if __name__ == "__main__":
    main()
