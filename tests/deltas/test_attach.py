"""A network is changed so that it can be changed back."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from autotune.backbones.units import Unit, find_units
from autotune.deltas.attach import Deltas, attached
from autotune.deltas.surgery import exchange_buffer, exchanged
from autotune.errors import PlanError
from autotune.problem.plan import Choice, Plan

ALL = Choice.of("subtune", what="all")


def state(network: nn.Module) -> list:
    named = [(n, id(p), p.requires_grad) for n, p in network.named_parameters()]
    return [named, [(n, type(m), m.training) for n, m in network.named_modules()]]


def training(network: nn.Module) -> set[str]:
    return {name for name, module in network.named_modules() if module.training}


def test_only_the_tuned_unit_trains_and_never_its_norm(tiny_backbone):
    network, units = tiny_backbone.network, find_units(tiny_backbone, "tree")
    with attached(network, units, Plan({"first": ALL})) as deltas:
        deltas.train()
        assert training(network) == {"first", "first.conv", "first.dropout"}


def test_a_direct_parameter_leaves_all_other_modules_in_evaluation(tiny_backbone):
    network = tiny_backbone.network
    network.token = nn.Parameter(torch.zeros(3))
    with attached(network, find_units(tiny_backbone, "tree"), Plan({"token": ALL})) as deltas:
        deltas.train()
        assert training(network) <= {""}


def test_a_unit_around_other_units_leaves_these_in_evaluation(tiny_backbone):
    network = tiny_backbone.network
    network.first.gain = nn.Parameter(torch.zeros(3))
    inner = tuple(n for n, _ in network.named_parameters() if n.startswith("first.conv"))
    units = [Unit("first", ("first.gain",)), Unit("inner", inner)]
    with attached(network, units, Plan({"first": ALL})) as deltas:
        deltas.train()
        assert training(network) <= {"first"}


def test_an_exception_inside_restores_everything(tiny_backbone):
    network, units = tiny_backbone.network, find_units(tiny_backbone, "tree")
    before = state(network)
    with (
        pytest.raises(ZeroDivisionError),
        attached(network, units, Plan({"first": ALL, "second": Choice.of("scale")})),
    ):
        raise ZeroDivisionError
    assert state(network) == before


@pytest.mark.parametrize(
    ("plan", "error"),
    [
        ({"first": ALL, "third": ALL}, KeyError),
        ({"first": ALL, "second": Choice.of("lowrank", rank=0)}, PlanError),
        ({"first": ALL, "second": Choice.of("lowrank", rank="x")}, ValueError),
        ({"first": ALL, "second": Choice.of("scale", gain=1)}, TypeError),
    ],
)
def test_a_plan_that_cannot_be_attached_leaves_the_network_alone(tiny_backbone, plan, error):
    network, units = tiny_backbone.network, find_units(tiny_backbone, "tree")
    before = state(network)
    with pytest.raises(error):
        Deltas(network, units, Plan(plan), seed=0)
    assert state(network) == before


def test_detaching_twice_is_detaching_once(tiny_backbone):
    network, units = tiny_backbone.network, find_units(tiny_backbone, "tree")
    before = state(network)
    deltas = Deltas(network, units, Plan({"first": Choice.of("lowrank", rank=1)}), seed=0)
    deltas.detach()
    deltas.detach()
    assert state(network) == before


def test_a_units_start_does_not_depend_on_the_other_units(tiny_backbone):
    network, units = tiny_backbone.network, find_units(tiny_backbone, "tree")
    lowrank = Choice.of("lowrank", rank=2)
    with attached(network, units, Plan({"second": lowrank})) as alone:
        expected = {name: t.clone() for name, t in alone.tensors().items()}
    with attached(network, units, Plan({"first": lowrank, "second": lowrank})) as both:
        tensors = both.tensors()
    assert all(torch.equal(tensors[name], t) for name, t in expected.items())


def test_an_exchanged_module_comes_back_in_its_place(tiny_network):
    before = [(name, id(m)) for name, m in tiny_network.named_modules()]
    with exchanged(tiny_network, "first.norm", nn.Identity()) as other:
        assert tiny_network.first.norm is other
    assert [(name, id(m)) for name, m in tiny_network.named_modules()] == before


def test_buffers_come_back_with_equal_bits(tiny_network):
    before = {name: b.clone() for name, b in tiny_network.named_buffers()}
    values = {"norm.running_mean": torch.ones(4), "first.norm.running_var": torch.ones(4)}
    buffers = {name: id(b) for name, b in tiny_network.named_buffers()}
    undo = [exchange_buffer(tiny_network, name, value) for name, value in values.items()]
    assert torch.equal(tiny_network.norm.running_mean, torch.ones(4))
    for put_back in undo:
        put_back()
    assert {name: id(b) for name, b in tiny_network.named_buffers()} == buffers
    assert all(torch.equal(b, before[name]) for name, b in tiny_network.named_buffers())
