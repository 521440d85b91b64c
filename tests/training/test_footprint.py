"""Time of inference and memory of a training step, measured on the network itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from autotune.backbones.base import describe
from autotune.backbones.dataflow import trace
from autotune.backbones.inputs import InputDescription
from autotune.backbones.spans import with_spans
from autotune.backbones.units import find_units
from autotune.deltas.attach import Deltas
from autotune.problem.job import Job
from autotune.problem.plan import Choice, Plan
from autotune.problem.search_space import UnitPatterns as Patterns
from autotune.training.footprint import latency, memory
from autotune.training.loop import Recipe

ROWS, WIDE = 64, 512
LAYERS = {"one": r"one\.", "two": r"two\."}


class Plain(nn.Module):
    """Two wide layers and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(8, WIDE), nn.Linear(WIDE, WIDE)
        self.fc = nn.Linear(WIDE, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.two(self.one(x).relu()).relu())


@pytest.fixture
def network() -> nn.Module:
    return Plain().eval().requires_grad_(False)


@pytest.fixture
def inputs() -> torch.Tensor:
    return torch.randn(ROWS, 8, generator=torch.Generator().manual_seed(0))


def test_the_memory_of_a_step_by_hand(network, inputs):
    """What the first trained layer's gradient needs is kept; what is frozen before it is not."""
    head = [p.requires_grad_(True) for p in network.fc.parameters()]
    head_parameters = sum(p.numel() for p in head)
    activations = ROWS * WIDE  # what goes into the head
    logits = 2 * ROWS * 3  # the loss keeps log probabilities and the labels (int64)
    bytes_measured = memory(network, head, inputs, Recipe())
    assert bytes_measured - 4 * (3 * head_parameters + activations) <= 4 * (logits + ROWS * 2 + 16)
    network.two.requires_grad_(True)
    more = memory(network, [*head, *network.two.parameters()], inputs, Recipe())
    assert more - bytes_measured >= 4 * (3 * (WIDE * WIDE + WIDE) + ROWS * WIDE)


def test_memory_changes_nothing(network, inputs):
    network.fc.requires_grad_(True)
    before = torch.get_rng_state()
    memory(network, [*network.fc.parameters()], inputs, Recipe())
    assert all(p.grad is None for p in network.parameters())
    assert torch.equal(torch.get_rng_state(), before)


def attached(network: nn.Module, plan: Plan) -> Any:
    description = InputDescription(shape=(8,), dtype="float32")
    backbone = describe(network, source="plain", family="any")
    patterns = Patterns(block=LAYERS, layer=LAYERS)
    flow = trace(network, description)
    units = with_spans(backbone, find_units(backbone, patterns.block), patterns, flow)
    return Deltas(network, units, plan, seed=0, flow=flow)


def test_what_merges_takes_no_time(network, inputs):
    deltas = attached(network, Plan({"two": Choice.of("lowrank", rank=4)}))
    assert latency(network, deltas, inputs, Recipe()) == 1.0
    deltas.detach()


def test_what_is_added_does(network, inputs, monkeypatch):
    """As long as each hook took a second: with the path on, against without.

    The outputs afterwards are those of before.
    """

    def seconds(timed: nn.Module, _: torch.Tensor) -> float:
        modules = [*timed.modules()]
        return 2.0 + sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)

    monkeypatch.setattr("autotune.training.footprint._seconds", seconds)
    plain = seconds(network, inputs)
    deltas = attached(network, Plan({"network": Choice.of("side", width=WIDE)}))
    before = network(inputs)
    together = seconds(network, inputs)
    assert together > plain
    ratio = latency(network, deltas, inputs, Recipe())
    assert ratio == pytest.approx(together / plain, abs=0.025), "to 0.05"
    assert torch.equal(network(inputs), before)
    deltas.detach()


def test_memory_is_that_of_the_recipes_precision(make_engine):
    by_precision = {}
    for precision in ("float32", "bfloat16"):
        engine = make_engine(precision=precision, epochs=1)
        engine.measured = "memory"
        rates = {"lr:head": 0.01, "lr:subtune": 0.01}
        plan = Plan({"conv": Choice.of("subtune", what="all")})
        *_, last = engine(Job("trial 0", plan, rates, seed=0, number=0))
        by_precision[precision] = last.metrics["memory"]
    assert by_precision["bfloat16"] < 0.8 * by_precision["float32"]


def test_latency_is_that_of_the_recipes_precision(network, inputs):
    dtypes = set()
    network.fc.register_forward_hook(lambda _, __, logits: dtypes.add(logits.dtype))
    deltas = attached(network, Plan({"network": Choice.of("side", width=8)}))
    dtypes.clear()
    latency(network, deltas, inputs, Recipe(precision="bfloat16"))
    deltas.detach()
    assert dtypes == {torch.bfloat16}
