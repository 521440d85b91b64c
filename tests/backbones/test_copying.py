"""A copy of a network reads nothing of the network."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from autotune.backbones.copying import copied

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


def forward_replaced() -> nn.Module:
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    plain = network[0].forward
    network[0].forward = lambda x: 2 * plain(x)
    return network


def forward_of_the_network() -> nn.Module:
    network = nn.Module()
    network.layer = nn.Linear(4, 4)
    network.forward = lambda x: network.layer(x)
    return network


def hook_of_another_layer() -> nn.Module:
    network = nn.ModuleDict({"layer": nn.Identity(), "other": nn.Linear(4, 4)})
    network.forward = partial(lambda layers, x: layers["layer"](x), network)
    other = network["other"]
    network["layer"].register_forward_hook(lambda module, args, output: other(output))
    return network


def function_that_reads_itself() -> nn.Module:
    network = nn.Sequential(nn.Linear(4, 4))

    def twice(x: Tensor, left: int = 2, weight: Tensor = network[0].weight) -> Tensor:
        return twice(x @ weight, left - 1) if left else x

    network.forward = twice
    return network


MAKES: list[Callable[[], nn.Module]] = [
    *(forward_replaced, forward_of_the_network, hook_of_another_layer, function_that_reads_itself)
]


@pytest.mark.parametrize("make", MAKES)
def test_functions_of_a_copy_read_the_copy(make):
    network = make()
    twin, before = copied(network), network(X)
    assert torch.equal(twin(X), before)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(2)
    assert torch.equal(network(X), before)
    assert not torch.equal(twin(X), before)
