"""Activation checkpoints of any kind give gradients to weights whose input needs none."""

from __future__ import annotations

import pytest
import torch
import torch.utils.checkpoint as torch_checkpoint
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from autotune.backbones.activation_checkpoints import plain_checkpoints
from autotune.backbones.heads.finding import find_head
from autotune.backbones.usage import unused_parameters

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


class Whole(nn.Module):
    """Everything but the head is in one re-entrant checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.body = nn.Linear(8, 3), nn.Sequential(nn.Linear(8, 8), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.head(checkpoint(self.body, x, use_reentrant=True))


class InSegments(Whole):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(checkpoint_sequential(self.body, 2, x, use_reentrant=True))


class Nested(Whole):
    def inside(self, x: Tensor) -> Tensor:
        return checkpoint(self.body, x, use_reentrant=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(checkpoint(self.inside, x, use_reentrant=True))


@pytest.mark.parametrize("kind", [Whole, InSegments, Nested])
def test_gradients_are_those_without_a_checkpoint(kind):
    network = kind()
    expected = torch.autograd.grad(network.head(network.body(X)).sum(), network.body[0].weight)
    with plain_checkpoints():
        gradient = torch.autograd.grad(network(X).sum(), network.body[0].weight)
    assert torch.equal(gradient[0], expected[0])


@pytest.mark.parametrize("kind", [Whole, InSegments, Nested])
def test_a_part_that_reads_the_input_in_a_checkpoint_is_used(kind):
    assert unused_parameters(kind(), X.split(2)) == frozenset()
    assert find_head(kind(), X) == "head"


def test_afterwards_torch_is_as_before_also_with_contexts_inside_each_other():
    before = torch_checkpoint.CheckpointFunction
    with plain_checkpoints(), plain_checkpoints():
        assert torch_checkpoint.CheckpointFunction is not before
    with pytest.raises(ZeroDivisionError), plain_checkpoints():
        raise ZeroDivisionError
    assert torch_checkpoint.CheckpointFunction is before
