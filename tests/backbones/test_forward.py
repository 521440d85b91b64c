"""Logits in whatever a network returns."""

from __future__ import annotations

from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, fx, nn

from autotune.backbones.base import describe
from autotune.backbones.forward import LogitsOnly, logits_of
from autotune.backbones.inputs import InputDescription
from autotune.backbones.usage import unused_parameters

LOGITS = torch.randn(2, 3)


@dataclass
class Answer:
    logits: Tensor
    loss: Tensor | None = None


Named = namedtuple("Named", ["loss", "logits"])


@pytest.mark.parametrize(
    "output",
    [
        LOGITS,
        {"loss": None, "logits": LOGITS},
        OrderedDict(logits=LOGITS),
        UserDict(logits=LOGITS),
        Answer(LOGITS),
        Named(None, LOGITS),
    ],
    ids=lambda output: type(output).__name__,
)
def test_logits_are_an_entry_an_attribute_or_the_output(output):
    assert logits_of(output) is LOGITS


@pytest.mark.parametrize("output", [(LOGITS, LOGITS), {"out": LOGITS}, None, object()])
def test_what_has_no_logits_comes_back(output):
    assert logits_of(output) is output


class Answering(nn.Module):
    """Registers its head first, so that only its logits lead to it."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.body, self.unused = nn.Linear(8, 3), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Answer:
        return Answer(self.head(self.body(x)))


def test_the_head_and_unused_parameters_follow_from_the_logits():
    network = Answering()
    described = describe(network, source="x", family="any", input=InputDescription(shape=(8,)))
    assert described.head == "head"
    assert unused_parameters(network, [torch.randn(2, 8)]) == {"unused.weight", "unused.bias"}


def test_a_network_of_logits_alone_returns_a_tensor_and_can_be_traced():
    only, x = LogitsOnly(Answering()), torch.randn(2, 8)
    assert torch.equal(only(x), only.network(x).logits)
    assert torch.equal(fx.symbolic_trace(only)(x), only(x))
