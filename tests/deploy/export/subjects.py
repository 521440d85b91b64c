"""Deltas with every method on three networks, for tests of exports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from autotune.backbones.base import Backbone, describe
from autotune.backbones.heads.copies import new_head
from autotune.backbones.inputs import InputDescription
from autotune.backbones.units import Units
from autotune.deltas import METHODS
from autotune.deltas.artifact import Artifact
from autotune.deltas.attach import Deltas
from autotune.deltas.candidates import check_choice
from autotune.deltas.costs import new_delta
from autotune.deltas.site import Site, sites
from autotune.deploy.export.base import Subject
from autotune.errors import PlanError
from autotune.problem.plan import Choice, Plan
from autotune.run.settings import read_settings
from autotune.session.sources import find_choices

from .plain import SHAPES, network

FAMILIES = {"digits": "digits", "resnet18": "resnet", "vit": "vit"}
CLASSES = 5
CHOICES = {
    "subtune": Choice.of("subtune", what="all", bn="adapt"),
    "reparam": Choice.of("reparam", form="times", rank=2),
    "scale": Choice.of("scale"),
    "lowrank": Choice.of("lowrank", rank=2),
    "xs": Choice.of("xs", rank=2),
    "sparse": Choice.of("sparse", k=8, by="random"),
    "res_prefix": Choice.of("res_prefix", length=2),
    "res_prompt": Choice.of("res_prompt", length=2),
    "res_adapter": Choice.of("res_adapter", width=2),
    "skip": Choice.of("skip", width=2),
    "side": Choice.of("side", width=2),
    "bypass": Choice.of("bypass", width=2),
}
ATTENTION = ("res_prefix", "res_prompt")
"""Methods that need attention, so only the transformer can take them."""


def backbone_of(name: str) -> Backbone:
    shape = InputDescription(shape=SHAPES[name])
    return describe(network(name), source=name, family=FAMILIES[name], input=shape)


class Net:
    """A network with plans that together contain each method at least once."""

    def __init__(self, name: str) -> None:
        self.name, self.backbone = name, backbone_of(name)
        self.settings = read_settings({"budget": "100%", "space": FAMILIES[name]})
        _, self.units = find_choices(self.settings, self.backbone, self.backbone.input)
        self.sites = sites(self.backbone.network, self.units, self.units.flow)

    def plans(self) -> list[Plan]:
        """Plans that can be merged, then plans that add paths; the last one is for PEFT."""
        mergeable = [m for m in CHOICES if METHODS.load(m).mergeable]
        groups = mergeable, [m for m in CHOICES if m not in mergeable and m != "bypass"], ["bypass"]
        return [*(plan for group in groups for plan in self._spread(group)), self.for_peft()]

    def _spread(self, methods: list[str]) -> Iterator[Plan]:
        """Each method at a separate unit, in as few plans as possible; paths at the first units."""
        merge = all(METHODS.load(method).mergeable for method in methods)
        choices: dict[str, Choice] = {}
        for method in methods:
            units = [name for name, site in self.sites.items() if _has_place(CHOICES[method], site)]
            units = units[:: -1 if merge else 1]
            free = [name for name in units if name not in choices]
            if units and not free:
                yield Plan(choices)
                choices, free = {}, units
            if free:
                choices[free[0]] = CHOICES[method]
        if choices:
            yield Plan(choices)

    def for_peft(self) -> Plan:
        """Low rank with three ranks, once together with norms, and one unit that is sub-tuned."""
        lowrank = CHOICES["lowrank"]
        names = [name for name, site in self.sites.items() if _has_place(lowrank, site)]
        norms = Choice.of("subtune", what="norms")
        return Plan(
            {
                names[0]: Choice.of("lowrank", rank=3),
                names[-3]: lowrank,
                names[-2]: norms + Choice.of("lowrank", rank=1),
                names[-1]: Choice.of("subtune", what="all"),
            }
        )

    def subject(self, plan: Plan, *, prepared: bool = False) -> Subject:
        artifact = random_artifact(self.backbone, self.units, plan, prepared)
        return Subject(self.backbone, artifact, self.settings)


def _has_place(choice: Choice, site: Site) -> bool:
    try:
        check_choice(choice, site)
    except PlanError:
        return False
    return True


def random_artifact(backbone: Backbone, units: Units, plan: Plan, prepared: bool) -> Artifact:
    """Artifact as if trained: deltas, head and prepared buffers are perturbed."""

    def moved(tensors: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(0)
        return {
            f"{kind}/{name}": t + 0.1 * torch.rand(t.shape, generator=generator)
            if t.is_floating_point()
            else t.clone()
            for name, t in tensors.items()
        }

    network = backbone.network
    deltas = Deltas(network, units, plan, seed=0, flow=units.flow)
    tensors = moved(deltas.tensors(), "delta")
    cost = deltas.predicted
    deltas.detach()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        head = new_head(network.get_submodule(backbone.head), CLASSES)
    tensors |= moved(head.state_dict(), "head")
    if prepared:
        tensors |= moved({n: b for n, b in network.named_buffers() if "running" in n}, "buffer")
    header: dict[str, Any] = {
        "input": backbone.input.to_json() if backbone.input else None,
        "cost": asdict(cost),
        "metrics": {"val": {"accuracy": 0.5}},
        "task": {"source": "noise", "classes": [str(i) for i in range(CLASSES)]},
        "about": {"backbone": backbone.source, "head": backbone.head, "budget": "100%"},
    }
    tuned = tuple(unit for unit in units if unit.name in plan.choices)
    contiguous = {name: t.detach().contiguous() for name, t in tensors.items()}
    return Artifact(plan, tuned, backbone.fingerprint, contiguous, header)


def is_mergeable(plan: Plan) -> bool:
    methods = [method for choice in plan.choices.values() for method in choice.methods]
    return all(new_delta(method).mergeable for method in methods)
