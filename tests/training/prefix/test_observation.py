"""Values that a graph shares, changes in part, or has with the batch in another dimension."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autotune.training.prefix.cut import before, cut
from autotune.training.prefix.graph import Graph, graphs_of
from autotune.training.prefix.observation import OBSERVED_EXAMPLES

X = torch.randn(OBSERVED_EXAMPLES, 6, 8, generator=torch.Generator().manual_seed(0))


class Shifts(nn.Module):
    """Writes into a part of a new tensor, as encoder-decoder models shift their tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        shifted = h.new_zeros(h.shape)
        early = shifted + 1
        shifted[:, 1:].copy_(h[:, :-1])
        shifted[:, 0].add_(self.second(h[:, 0]))
        return self.head((shifted + early).mean(1))


class OverTime(nn.Module):
    """The batch is dimension 1 between two layers, as torch's encoder has it by default."""

    def __init__(self, layers: int = 3) -> None:
        super().__init__()
        self.embedding, self.head = nn.Linear(8, 8), nn.Linear(8, 2)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0) for _ in range(layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.embedding(x).transpose(0, 1)
        for layer in self.layers:
            h = layer(h)
        return self.head(h.mean(0))


def made(network: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return network.eval().requires_grad_(False)


@torch.no_grad()
def steps_behind(network: nn.Module, graph: Graph, x: Tensor) -> list[str]:
    """Nodes behind the cut, which must give the outputs of the network, from rows in any order."""
    parts = cut(graph)
    live = before(graph, parts.live, [graph.input])(x)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    behind = parts.behind(*(value[order] for value in live))[0]
    torch.testing.assert_close(behind, network(x)[order])
    return [step.node.name for step in parts.behind.steps]


@pytest.mark.parametrize("is_exported", [False, True])
@pytest.mark.parametrize("trained", ["first", "second", "head"])
def test_a_value_that_is_changed_in_part_is_right_on_both_sides_of_a_cut(trained, is_exported):
    network = made(Shifts())
    graph = Graph(network, X, is_exported=is_exported)
    network.get_submodule(trained).requires_grad_(True)
    more = X.repeat(3, 1, 1)
    names = steps_behind(network, graph, more)
    assert len(names) < len(graph.nodes) - 5
    assert steps_behind(network, graph, more) == names  # again: nothing that is kept was changed


def test_values_with_the_batch_in_dimension_1_are_kept():
    network = made(OverTime())
    graph = Graph(network, X)
    network.layers[2].linear1.requires_grad_(True)
    names = steps_behind(network, graph, X.repeat(3, 1, 1))
    assert len(names) < len(graph.nodes) / 2


def test_values_with_the_batch_in_dimension_1_that_mix_examples_are_not_kept():
    class Mixes(OverTime):
        def forward(self, x: Tensor) -> Tensor:
            h = self.embedding(x).transpose(0, 1)
            return self.head((h - h.mean(1, keepdim=True)).mean(0))

    network = made(Mixes())
    graph = Graph(network, X)
    network.head.requires_grad_(True)
    live = cut(graph).live
    assert [graph.seen[node].shape for node in live] == [(6, 8)]  # that of the embedding


class Reads(nn.Module):
    """Most of the network in one module, whose own code reads its mode."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = F.dropout(layer(x), 0.1, self.training)
        return x


def test_operators_are_traced_if_most_of_a_network_would_be_one_node():
    network = made(nn.Sequential(Reads(), nn.Flatten(), nn.Linear(48, 2)))
    graphs, _ = graphs_of(network, X)
    assert [graph.is_exported for graph in graphs] == [True, False]
    network[0].layers[3].requires_grad_(True)
    assert len(cut(graphs[0]).behind.steps) < len(graphs[0].nodes) / 2
