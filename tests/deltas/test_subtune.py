"""SubTuning."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import nn

from autotune.backbones.digits import Block
from autotune.deltas.base import sites
from autotune.deltas.subtune import Subtune
from autotune.errors import PlanError
from autotune.plan import Choice

from .contract import DeltaContract, Network, attach, units_of


class TestSubtune(DeltaContract):
    LEFT_ALONE: ClassVar = {
        "subtune-norms": {"linear", "convolution", "grouped", "strided", "tied"},
        "subtune-biases": {"grouped"},
    }

    @pytest.fixture(params=["all", "norms", "biases"])
    def choice(self, request):
        return Choice.of("subtune", what=request.param)


@pytest.mark.parametrize(("what", "count"), [("all", 600), ("norms", 36), ("biases", 18)])
def test_trains_the_part_that_is_named(what, count):
    network = Network(Block(4, 6, 2))
    site = sites(network, units_of(network))["unit"]
    assert Subtune(what).count(site).parameters == count


def test_tied_weights_count_once_and_stay_tied():
    unit = nn.ModuleDict({"a": nn.Linear(6, 6, bias=False), "b": nn.Linear(6, 6, bias=False)})
    unit["b"].weight = unit["a"].weight
    deltas = attach(Network(unit), Choice.of("subtune", what="all"))
    assert deltas.cost().parameters == 36
    assert unit["a"].weight is unit["b"].weight
    assert unit["a"].weight is deltas.parameters()[0]


def test_refuses_another_part_in_one_line():
    with pytest.raises(PlanError, match=r"one of all, biases, norms, got 'heads'\.$"):
        Subtune("heads")


def test_keeps_the_dtype_of_each_tensor():
    network = Network(nn.Sequential(nn.Linear(3, 3, dtype=torch.float64), nn.Linear(3, 3)))
    deltas = attach(network, Choice.of("subtune", what="all"))
    assert deltas.cost().bytes == 12 * 8 + 12 * 4
