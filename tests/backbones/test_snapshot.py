"""A forward pass leaves no trace in the network."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from autotune.backbones.eval_mode import evaluating
from autotune.backbones.snapshot import Snapshot


class Counting(nn.Module):
    """Counts its calls in one buffer and replaces another."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(4), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.mean = 0.9 * self.mean + 0.1 * x.mean(0).detach()
        return self.fc(x - self.mean)


def spectral() -> nn.Module:
    return nn.utils.spectral_norm(nn.Linear(4, 4))


def normed() -> nn.Module:
    return nn.Sequential(nn.Embedding(9, 4, max_norm=0.1), nn.Flatten(), nn.Linear(12, 2))


NETWORKS = {
    "counting": (Counting, torch.randn(3, 4)),
    "spectral norm": (spectral, torch.randn(3, 4)),
    "batch norm": (lambda: nn.Sequential(nn.BatchNorm1d(4)), torch.randn(3, 4)),
    "max_norm": (normed, torch.randint(9, (5, 3))),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_what_a_forward_pass_writes_is_restored(name):
    make, x = NETWORKS[name]
    network = make()
    objects = [*network.parameters(), *network.buffers()]
    before = [tensor.detach().clone() for tensor in objects]
    snapshot = Snapshot(network)
    network.train()(x)
    assert not all(map(torch.equal, [*network.parameters(), *network.buffers()], before))
    snapshot.restore()
    after = [*network.parameters(), *network.buffers()]
    assert all(a is b for a, b in zip(after, objects, strict=True))
    assert all(map(torch.equal, after, before))


def test_a_snapshot_is_restored_once():
    network = Counting()
    snapshot = Snapshot(network)
    snapshot.restore()
    network(torch.randn(3, 4))
    snapshot.restore()
    assert network.calls == 1


def test_evaluation_leaves_no_trace():
    network = Counting()
    with evaluating(network):
        network(torch.randn(3, 4))
        assert network.calls == 1
    assert network.calls == 0 and network.training


class Remembering(nn.Module):
    """Keeps its last output, a cache that grows, a count, and a tensor that is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.calls, self.last = nn.Linear(4, 4), 0, None
        self.cache, self.shapes, self.total = {"keys": []}, [], torch.zeros(4)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.last = self.extra = self.fc(x)
        self.cache["keys"].append(self.last)
        self.cache["values"] = self.last
        self.shapes = [*self.shapes, x.shape]
        self.total += x.detach().sum(0)
        return self.last


def test_attributes_that_a_forward_pass_writes_are_restored():
    network = Remembering()
    cache, total = network.cache, network.total
    with evaluating(network):
        network(torch.randn(3, 4))
        assert network.calls == 1 and network.extra is network.last
    assert network.calls == 0 and network.last is None and not hasattr(network, "extra")
    assert network.cache is cache and cache == {"keys": []} and network.shapes == []
    assert network.total is total and not total.any()


def test_modules_may_be_left_out_of_a_snapshot_and_attributes_too():
    network = nn.ModuleDict({"a": Remembering(), "b": Counting()})
    others = [*network["b"].modules()]
    snapshot = Snapshot(network, without=others, has_attributes=False)
    for module in network.values():
        module(torch.randn(3, 4))
    snapshot.rewind()
    assert network["a"].calls == 1 and network["b"].calls == 1
    Snapshot(network, without=others).restore()
    assert network["a"].calls == 1
