"""What a network's own code writes in training is in no delta file, so no evaluation reads it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import autotune
from autotune.deltas.outputs import is_repeatable
from autotune.problem.job import Job
from autotune.problem.plan import Choice, Plan

X = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
Y = X[:, :3].argmax(1)
RATES = {"lr:head": 0.01, "lr:subtune": 0.01, "weight_decay": 0.0}


class Normalising(nn.Module):
    """Batch norm as a function, with buffers of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 8)
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("var", torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(self.fc(x), self.mean, self.var, training=self.training)


class Codes(nn.Module):
    """Entries of a codebook follow what is near them in training."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 8)
        self.register_buffer("codes", torch.randn(5, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        nearest = torch.cdist(x, self.codes).argmin(1)
        if self.training:
            with torch.no_grad():
                self.codes[nearest] = self.codes[nearest].lerp(x, 0.5)
        return x + self.codes[nearest]


class Annealing(nn.Module):
    """A temperature falls with every training step."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.temperature = nn.Linear(8, 8), 1.0

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.temperature *= 0.9
        return torch.tanh(self.fc(x) / self.temperature)


class Net(nn.Module):
    def __init__(self, block: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.stem, self.block, self.head = nn.Linear(8, 8), block(), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.stem(x)).relu())


@pytest.mark.parametrize("block", [Normalising, Codes, Annealing])
def test_the_loss_in_training_is_that_of_the_delivered_file(block):
    torch.manual_seed(0)
    setup = autotune.prepare(
        Net(block).eval(), ((X, Y), (X, Y)), "100%", space="any", epochs=2, batch_size=8
    )
    plan = Plan({"block": Choice.of("subtune", what="all")})
    *_, last = setup.engine(Job("trial 0", plan, RATES, seed=0))
    loss = setup.engine.measure(last.artifact, setup.task.val)["loss"]
    setup.engine.close()
    assert loss == last.metrics["loss"]


class Observing(nn.Module):
    """Reads the largest value that it has seen, as observers of quantisation do."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("largest", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.largest.lerp_(x.abs().max(), 0.5)
        return x / self.largest


def test_outputs_that_depend_on_earlier_passes_do_not_repeat():
    assert not is_repeatable(Observing(), X)
    assert is_repeatable(nn.BatchNorm1d(8), X)


def test_attributes_are_as_before_after_a_search():
    network = Net(Annealing).train()
    setup = autotune.prepare(network, ((X, Y), (X, Y)), "100%", space="any", epochs=1)
    plan = Plan({"block": Choice.of("subtune", what="all")})
    list(setup.engine(Job("trial 0", plan, RATES, seed=0)))
    assert network.block.temperature == 1.0
    network(X)
    setup.engine.close()
    assert network.block.temperature == 1.0


def test_the_memory_format_of_the_users_network_is_as_before():
    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1))
    network = nn.Sequential(body, nn.Flatten(), nn.Linear(4, 2))
    network.to(memory_format=torch.channels_last)
    before = {name: t.stride() for name, t in network.state_dict().items()}
    images = torch.randn(8, 3, 5, 5)
    setup = autotune.prepare(network, (images, torch.arange(8) % 2), "100%", space="any")
    setup.engine.close()
    assert {name: t.stride() for name, t in network.state_dict().items()} == before
    assert network[0][0].weight.is_contiguous(memory_format=torch.channels_last)
