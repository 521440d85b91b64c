"""Small networks whose layers compute their weights: weight norm, spectral norm, pruning, …"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from deploy.export.subjects import random_artifact
from torch import nn
from torch.nn import utils
from torch.nn.utils import parametrizations, prune

from autotune.backbones.base import Backbone, describe
from autotune.backbones.inputs import InputDescription
from autotune.deltas.site import sites
from autotune.deploy.export.base import Subject
from autotune.problem.plan import Choice, Plan
from autotune.run.settings import read_settings
from autotune.session.sources import find_choices

Wrap = Callable[[nn.Module], nn.Module]


def _quiet(wrap: Wrap) -> Wrap:
    def wrapped(layer: nn.Module) -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of earlier functions of torch
            return wrap(layer)

    return wrapped


EXACT: dict[str, Wrap] = {
    "weight norm": parametrizations.weight_norm,
    "weight norm of columns": lambda layer: parametrizations.weight_norm(layer, dim=1),
    "earlier weight norm": _quiet(utils.weight_norm),
    "earlier weight norm, whole": _quiet(lambda layer: utils.weight_norm(layer, dim=None)),
}
"""Parametrizations that compute any weight."""

BOUND: dict[str, Wrap] = {
    "spectral norm": parametrizations.spectral_norm,
    "earlier spectral norm": _quiet(utils.spectral_norm),
    "orthogonal": parametrizations.orthogonal,
    "cayley": lambda layer: parametrizations.orthogonal(
        layer, orthogonal_map="cayley", use_trivialization=False
    ),
    "pruning": lambda layer: prune.l1_unstructured(layer, "weight", 0.3),
}
"""Parametrizations that compute some weights alone."""

ALL = {**EXACT, **BOUND}
CHANGES = {
    "lowrank": Choice.of("lowrank", rank=2),
    "scale": Choice.of("scale"),
    "reparam": Choice.of("reparam", form="lowrank", rank=1),
    "sparse": Choice.of("sparse", k=40, by="random"),
    "xs": Choice.of("xs", rank=2),
}
SUBTUNE = Choice.of("subtune", what="all")


def network(wrap: Wrap, classes: int = 4) -> nn.Module:
    """Three layers and a head, all but the second with the parametrization."""
    torch.manual_seed(0)
    body = [wrap(nn.Linear(8, 16)), nn.Linear(16, 16), wrap(nn.Linear(16, 16))]
    blocks = [nn.Sequential(layer, nn.ReLU()) for layer in body]
    return nn.Sequential(*blocks, wrap(nn.Linear(16, classes))).eval()


def subject(made: nn.Module, choice: Choice) -> Subject:
    """Random delta with one choice in the first and third layer of a network."""
    backbone = backbone_of(made)
    settings = read_settings({"budget": "100%", "space": "any", "granularity": "layer"})
    _, units = find_choices(settings, backbone, backbone.input)
    plan = Plan(dict.fromkeys(("0.0", "2.0"), choice))
    return Subject(backbone, random_artifact(backbone, units, plan, False), settings)


def backbone_of(made: nn.Module) -> Backbone:
    return describe(made, source="test", family="any", input=InputDescription(shape=(8,)))


def site_of(made: nn.Module, name: str = "0.0"):
    settings = read_settings({"budget": "100%", "space": "any", "granularity": "layer"})
    units = find_choices(settings, backbone_of(made), None)[1]
    return sites(made, units)[name]
