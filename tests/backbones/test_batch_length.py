"""`len` of a tensor is a symbol in traces, and everything else is as it was."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autotune.backbones.batch_length import length, symbolic_length
from autotune.deploy.export.module import exported
from autotune.training.prefix.graph import graphs_of
from autotune.training.prefix.nodes import reads_shape

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


class Token(nn.Module):
    """Repeats a parameter for every example."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.head = nn.Parameter(torch.randn(1, 4)), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([x, self.token.expand(len(x), -1)], 1))


def test_a_trace_holds_for_batches_of_any_size():
    network = Token().eval()
    graphs, reason = graphs_of(network, X)
    assert not reason and not graphs[0].untraced and not graphs[0].is_exported
    assert any(node.target is length and reads_shape(node) for node in graphs[0].nodes)
    program = exported(network, X).module()
    assert torch.allclose(program(X[:1]), network(X[:1]))


def test_len_is_what_it_was_afterwards():
    assert "len" not in globals()
    with symbolic_length(nn.Sequential(Token(), nn.ReLU())):
        assert globals()["len"] is length
        assert len([1, 2]) == len("ab") == len(X[:2]) == 2
    assert "len" not in globals()


class Wrapper(nn.Module):
    """Passes on all arguments, as `nn.DataParallel` does."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, *inputs: Tensor, **options: object) -> Tensor:
        return self.inside(*inputs, **options)


def test_wrappers_that_pass_on_all_arguments_are_exported():
    network = Wrapper(Token()).eval()
    program = exported(network, X).module()
    assert torch.allclose(program(X[:3]), network(X[:3]))
