"""The supernet: strands, gates, sizes; and that it comes off without a trace."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from autotune.backbones.base import describe
from autotune.backbones.dataflow import trace
from autotune.backbones.inputs import InputDescription
from autotune.backbones.spans import with_spans
from autotune.backbones.units import find_units
from autotune.deltas.attach import Deltas
from autotune.deltas.costs import new_delta
from autotune.problem.plan import FROZEN, Choice, Plan
from autotune.run.settings import load_space
from autotune.training.oneshot.supernet import Supernet, can_share

INPUT = InputDescription(shape=(1, 6, 6))
NORMS = Choice.of("subtune", what="norms")
RANKS = {rank: Choice.of("lowrank", rank=rank) for rank in (1, 2)}
CHOICES = {
    "conv": [FROZEN, RANKS[1], RANKS[2]],
    "first": [
        FROZEN,
        NORMS,
        *RANKS.values(),
        NORMS + RANKS[1],
        Choice.of("subtune", what="all"),
        Choice.of("scale"),
        Choice.of("xs", rank=2),
        Choice.of("reparam", form="times", rank=2),
        Choice.of("res_adapter", width=2),
        Choice.of("res_adapter", width=3),
        Choice.of("sparse", k=5),
    ],
    "second": [FROZEN],
    "network": [FROZEN, Choice.of("side", width=2), Choice.of("bypass", width=2)],
}


@pytest.fixture
def units(tiny_network):
    backbone = describe(tiny_network, source="tiny", family="any", input=INPUT)
    found_units = find_units(backbone, "tree")
    return with_spans(backbone, found_units, load_space("any").units, trace(tiny_network, INPUT))


@pytest.fixture
def supernet(tiny_network, units):
    made = Supernet(tiny_network, units, CHOICES, seed=0, flow=units.flow)
    yield made
    made.detach()


@pytest.fixture
def x():
    return torch.randn(5, 1, 6, 6, generator=torch.Generator().manual_seed(1))


def strand_of(supernet, name):
    return next(strand for strand in supernet.strands if strand.name == name)


def scrambled(module: nn.Module) -> None:
    """Parameters that are no longer at their start."""
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)


def test_closed_it_computes_exactly_what_the_network_did(tiny_network, units, x):
    before = tiny_network.eval()(x)
    supernet = Supernet(tiny_network, units, CHOICES, seed=0, flow=units.flow)
    for strand in supernet.strands:
        scrambled(strand.delta)
    assert torch.equal(tiny_network(x), before)


def test_open_at_the_start_it_changes_nothing_either(tiny_network, supernet, x):
    before = tiny_network(x)
    for strand in supernet.strands:
        strand.open(-1)
    assert torch.allclose(tiny_network(x), before, atol=1e-6)


def test_detach_puts_everything_back(tiny_network, units, x):
    tiny_network.train()
    parameters = {name: (p, p.requires_grad) for name, p in tiny_network.named_parameters()}
    classes = [type(module) for module in tiny_network.modules()]
    supernet = Supernet(tiny_network, units, CHOICES, seed=0, flow=units.flow)
    for strand in supernet.strands:
        strand.open(-1)
        scrambled(strand.delta)
    supernet.detach()
    assert {n: (p, p.requires_grad) for n, p in tiny_network.named_parameters()} == parameters
    assert [type(module) for module in tiny_network.modules()] == classes
    assert all(m.training for m in tiny_network.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in tiny_network.modules())


def test_choices_share_what_they_can(supernet):
    names = [strand.name for strand in supernet.strands if strand.unit == "first"]
    assert sorted(names) == [
        "first/lowrank",
        "first/reparam-times",
        "first/res_adapter",
        "first/scale",
        "first/sparse-5",
        "first/subtune-all",
        "first/subtune-norms",
        "first/xs",
    ]
    adapter = strand_of(supernet, "first/res_adapter")
    assert [adapter.entry(at)[1] for at in (0, 1)] == ["res_adapter-2", "res_adapter-3"]


def test_what_cannot_share_has_no_strand(supernet):
    assert {strand.unit for strand in supernet.strands} == {"conv", "first"}
    assert can_share(CHOICES)
    assert not can_share({unit: CHOICES[unit] for unit in ("second", "network")})


SMALL = [
    RANKS[1],
    NORMS,
    Choice.of("subtune", what="all"),
    Choice.of("scale"),
    Choice.of("xs", rank=1),
    Choice.of("reparam", form="times"),
    Choice.of("res_adapter", width=1),
]


@pytest.mark.parametrize("choice", SMALL, ids=lambda choice: choice.label)
def test_a_small_size_is_the_beginning_of_a_large_one(tiny_network, units, choice, x):
    """A strand in a small size computes what a delta of that size does with its first values."""
    (method,) = choice.methods
    nests = type(new_delta(method)).nests
    options = {**dict(method.options), **({nests: 3} if nests else {})}
    offered = {"first": [choice, Choice.of(method.name, **options)]}
    supernet = Supernet(tiny_network, units, offered, seed=0, flow=units.flow)
    (strand,) = supernet.strands
    scrambled(strand.delta)
    strand.open(0)
    expected = tiny_network(x)
    tensors = {name: t.clone() for name, t in strand.delta.tensors().items()}
    supernet.detach()
    deltas = Deltas(tiny_network, units, Plan({"first": choice}), seed=0, flow=units.flow)
    with torch.no_grad():
        stored = deltas.by_place["first", method.name].tensors().values()
        for small_tensor, large in zip(stored, tensors.values(), strict=True):
            part = large[tuple(slice(n) for n in small_tensor.shape)]
            small_tensor.copy_(part + small_tensor if method.name == "subtune" else part)
    assert torch.allclose(tiny_network(x), expected, atol=1e-5)
    deltas.detach()


def test_a_gate_in_between_is_part_of_the_change(tiny_network, supernet, x):
    strand = strand_of(supernet, "conv/lowrank")
    scrambled(strand.delta)
    frozen = tiny_network.conv.weight.clone()
    strand.open(-1)
    whole = tiny_network.conv.weight - frozen
    strand.open(-1, 0.5)
    assert torch.allclose(tiny_network.conv.weight - frozen, whole / 2, atol=1e-6)


def test_what_it_gave_it_takes_again(tiny_network, units, supernet, x):
    for strand in supernet.strands:
        scrambled(strand.delta)
        strand.open(-1)
    expected, tensors = tiny_network(x), {k: t.clone() for k, t in supernet.tensors().items()}
    supernet.detach()
    again = Supernet(tiny_network, units, CHOICES, seed=1, flow=units.flow)
    again.load(tensors)
    for strand in again.strands:
        strand.open(-1)
    assert torch.equal(tiny_network(x), expected)
    again.detach()
