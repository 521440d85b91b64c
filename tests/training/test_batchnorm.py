"""Normalisation statistics of the task's own inputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from autotune.tasks.part import Part
from autotune.training.batchnorm import estimate_statistics, has_statistics

CPU = torch.device("cpu")


def estimate(network: nn.Module, part: Part) -> dict[str, torch.Tensor]:
    return estimate_statistics(network, part, input=None, device=CPU)


def part_of(n: int, *shape: int) -> Part:
    inputs = 3 * torch.randn(n, *shape, generator=torch.Generator().manual_seed(0)) + 2
    return Part(inputs, np.zeros(n, np.int64))


@pytest.mark.parametrize("n", [40, 64, 65, 300])
def test_the_first_norm_gets_mean_and_variance_of_the_inputs(n):
    part = part_of(n, 3, 4, 4)
    estimated = estimate(nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1)), part)
    torch.testing.assert_close(
        estimated["0.running_mean"], part.inputs.mean((0, 2, 3)), rtol=0, atol=0.02
    )
    torch.testing.assert_close(
        estimated["0.running_var"], part.inputs.var((0, 2, 3)), rtol=0.02, atol=0.02
    )


def test_the_network_is_left_as_it_was(tiny_network, tiny_task):
    tiny_network.train()
    tiny_network.second.eval()
    tiny_network.norm.momentum = 0.3
    before = {name: t.clone() for name, t in tiny_network.state_dict().items()}
    modes = [(m, m.training) for m in tiny_network.modules()]
    estimate(tiny_network, tiny_task.train)
    assert all(torch.equal(t, before[name]) for name, t in tiny_network.state_dict().items())
    assert [(m, m.training) for m in tiny_network.modules()] == modes
    assert tiny_network.norm.momentum == 0.3


def test_the_network_is_left_as_it_was_when_it_fails(tiny_network):
    before = {name: t.clone() for name, t in tiny_network.state_dict().items()}
    with pytest.raises(RuntimeError):
        estimate(tiny_network, part_of(8, 2, 6, 6))
    assert all(torch.equal(t, before[name]) for name, t in tiny_network.state_dict().items())
    assert tiny_network.norm.momentum == 0.1


def test_every_norm_is_estimated_and_dropout_is_off(tiny_network, tiny_task):
    first, second = (estimate(tiny_network, tiny_task.train) for _ in range(2))
    kinds = ("running_mean", "running_var")
    names = {f"{n}.{k}" for n in ("norm", "first.norm", "second.norm") for k in kinds}
    assert set(first) == names
    assert all(torch.equal(first[name], second[name]) for name in names)
    assert not torch.equal(first["second.norm.running_mean"], tiny_network.second.norm.running_mean)


def test_a_single_example_in_the_rest_does_no_harm():
    estimated = estimate(nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2)), part_of(4033, 3))
    assert torch.isfinite(estimated["0.running_var"]).all()
    assert estimated["0.running_mean"].tolist() == pytest.approx([2, 2, 2], abs=0.2)


def test_only_running_statistics_count():
    assert has_statistics(nn.Sequential(nn.BatchNorm1d(3)))
    assert not has_statistics(nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False)))
    assert not has_statistics(nn.Sequential(nn.LayerNorm(3), nn.GroupNorm(1, 3)))
