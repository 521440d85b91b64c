"""The mode of a module matters to a cut only where it changes what the module computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autotune.backbones.eval_mode import evaluating
from autotune.training.prefix.cut import before, cut
from autotune.training.prefix.graph import Graph
from autotune.training.prefix.mode_effects import mode_dependent

EXAMPLES = torch.randn(5, 6, 8, generator=torch.Generator().manual_seed(0))


class Attention(nn.Module):
    """Attention whose dropout depends on the mode, as in transformers."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.qkv, self.out, self.p = nn.Linear(8, 24), nn.Linear(8, 8), dropout

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        p = self.p if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=p).transpose(1, 2).contiguous()
        return self.out(y.reshape(x.shape[0], -1, 8))  # type: ignore[no-any-return]


class Depth(nn.Module):
    """Stochastic depth: operators that evaluation mode does not have."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        return x * torch.rand(len(x), 1, 1).round() * 2


class LayerDrop(nn.Module):
    """Draws a number that has an effect in one of a million cases."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if self.training and torch.rand(()) < 1e-6 else x


class Block(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.attention, self.depth = Attention(dropout), Depth() if dropout else nn.Identity()
        self.dropout, self.norm = nn.Dropout(dropout), nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 3:
            raise ValueError("sequences have three dimensions")
        return x + self.depth(self.dropout(self.attention(self.norm(x))))  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """Three blocks, run by way of a slice; a check makes them untraceable for `torch.fx`."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(dropout) for _ in range(3))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks[:3]:
            x = block(x)
        return self.head(x.mean(1))  # type: ignore[no-any-return]


def encoder(dropout: float) -> Encoder:
    torch.manual_seed(0)
    return Encoder(dropout).eval().requires_grad_(False)


@pytest.mark.parametrize(
    ("module", "depends"),
    [
        (nn.Dropout(0.0), False),
        (nn.Dropout(0.1), True),
        (Attention(0.0), False),
        (Attention(0.1), True),
        (LayerDrop(), True),
        (nn.MultiheadAttention(8, 2, batch_first=True), False),
        (nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), False),
        (nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True), True),
        (nn.BatchNorm1d(6), True),
        (nn.LayerNorm(8), False),
    ],
)
def test_a_module_depends_on_its_mode_if_it_computes_something_else(module, depends):
    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = module

        def forward(self, x: Tensor) -> Any:
            heads = isinstance(self.inside, nn.MultiheadAttention)
            return self.inside(x, x, x)[0] if heads else self.inside(x)

    network = Around().eval()
    with torch.no_grad():
        paths = mode_dependent(network, EXAMPLES[:2])
    assert bool(paths) is depends


def test_measuring_leaves_generators_and_modes_alone():
    network = encoder(0.5)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    with torch.no_grad():
        mode_dependent(network, EXAMPLES[:2])
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module.training for module in network.modules())


def behind(network: nn.Module, graph: Graph, x: Tensor) -> Tensor:
    """Logits of the cut network in its present mode."""
    made = cut(graph)
    with evaluating(network), torch.no_grad():
        live = before(graph, made.live, [graph.input])(x)
    return made.behind(*live)[0]  # type: ignore[no-any-return]


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_block_that_trains_runs_alone_and_draws_what_the_network_draws(dropout):
    network = encoder(dropout)
    graph = Graph(network, EXAMPLES, is_exported=True)
    network.blocks[1].attention.out.requires_grad_(True)
    for module in network.blocks[1].modules():
        module.training = True
    names = {step.node.name for step in cut(graph).behind.steps}
    assert len(names) < 0.8 * len(graph.nodes)
    torch.manual_seed(1)
    expected = network(EXAMPLES)
    torch.manual_seed(1)
    torch.testing.assert_close(behind(network, graph, EXAMPLES), expected, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        evaluated = network.eval()(EXAMPLES)
    torch.testing.assert_close(behind(network, graph, EXAMPLES), evaluated)
    assert torch.allclose(evaluated, expected) is (dropout == 0.0)


def test_all_blocks_that_train_draw_what_the_network_draws():
    network = encoder(0.3)
    graph = Graph(network, EXAMPLES, is_exported=True)
    network.requires_grad_(True).train()
    network.head.eval()
    torch.manual_seed(1)
    expected = network(EXAMPLES)
    torch.manual_seed(1)
    torch.testing.assert_close(behind(network, graph, EXAMPLES), expected, rtol=1e-5, atol=1e-6)
