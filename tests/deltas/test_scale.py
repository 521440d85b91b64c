"""Scale and shift."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from autotune.deltas.base import check_method, sites
from autotune.deltas.scale import Scale
from autotune.errors import PlanError
from autotune.plan import Choice

from .contract import DeltaContract, Network, attach, units_of


class TestScale(DeltaContract):
    @pytest.fixture
    def choice(self):
        return Choice.of("scale")


def test_scales_channels_and_shifts_biases():
    network = Network(nn.Conv2d(3, 4, 3))
    weight, bias = network.unit.weight.detach().clone(), network.unit.bias.detach().clone()
    deltas = attach(network, Choice.of("scale"))
    with torch.no_grad():
        for parameter in deltas.parameters():
            parameter.copy_(torch.tensor([0.0, 1.0, -1.0, 0.5]))
    factors = torch.tensor([1.0, 2.0, 0.0, 1.5]).view(-1, 1, 1, 1)
    assert torch.equal(network.unit.weight, weight * factors)
    assert torch.equal(network.unit.bias, bias + torch.tensor([0.0, 1.0, -1.0, 0.5]))


@pytest.mark.parametrize(
    ("layer", "count"), [(nn.Conv2d(3, 4, 3), 8), (nn.Linear(6, 5, bias=False), 5)]
)
def test_counts_a_number_a_channel(layer, count):
    network = Network(layer)
    assert Scale().count(sites(network, units_of(network))["unit"]).parameters == count


def test_has_no_options():
    with pytest.raises(PlanError, match=r"scale has no option 'rank'. Known: none"):
        check_method("scale", {"rank": 1}, Scale)
