"""Deltas of backbones in half precision train and are stored in float32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import nn
from torch.nn import functional as F

from autotune.backbones.units import Unit
from autotune.deltas.attach import attached
from autotune.problem.plan import Choice, Plan

from .kinds import LAYERS, SPANS
from .rig import Looked, Rig

LOW = [torch.float16, torch.bfloat16]
CHOICES = {
    "lowrank": ("linear", Choice.of("lowrank", rank=2)),
    "reparam": ("convolution", Choice.of("reparam", form="full")),
    "times": ("linear", Choice.of("reparam", form="times")),
    "scale": ("layernorm", Choice.of("scale")),
    "xs": ("linear", Choice.of("xs", rank=2)),
    "sparse": ("embedding", Choice.of("sparse", k=5)),
    "all": ("attention", Choice.of("subtune", what="all")),
    "norms": ("block", Choice.of("subtune", what="norms", bn="adapt")),
    "two": ("linear", Choice.of("subtune", what="biases") + Choice.of("lowrank", rank=1)),
    "prefix": ("attention", Choice.of("res_prefix", length=2)),
    "prompt": ("attention", Choice.of("res_prompt", length=2)),
    "adapter": ("transformer", Choice.of("res_adapter", width=2)),
    "skip": ("stage", Choice.of("skip", width=2)),
    "side": ("stage", Choice.of("side", width=2)),
    "bypass": ("tokens", Choice.of("bypass", width=2)),
}


@pytest.fixture(params=CHOICES)
def case(request) -> tuple[Any, Choice]:
    kind, choice = CHOICES[request.param]
    return {**LAYERS, **SPANS}[kind], choice


@pytest.mark.parametrize("dtype", LOW)
def test_trained_tensors_are_in_float32_and_cost_as_much(case, dtype):
    rig = Rig(case[0], dtype)
    deltas = rig.attach(case[1], evidence=Looked(rig))
    assert {parameter.dtype for parameter in deltas.parameters()} == {torch.float32}
    assert deltas.cost() == deltas.predicted
    assert rig.outputs().dtype == dtype


@pytest.mark.parametrize("dtype", LOW)
def test_small_steps_that_half_precision_would_lose_add_up(case, dtype):
    rig = Rig(case[0], dtype)
    deltas = rig.attach(case[1], evidence=Looked(rig))
    F.mse_loss(rig.network(rig.batch).float(), rig.target.float()).backward()
    before = [p.detach().clone() for p in deltas.parameters()]
    for parameter in deltas.parameters():
        assert parameter.grad is not None and parameter.grad.dtype == torch.float32
        parameter.data += 1e-5
    assert any(not torch.equal(p, old) for p, old in zip(deltas.parameters(), before, strict=True))
    assert not any(p.grad is not None for p in rig.network.parameters() if not p.requires_grad)


@pytest.mark.parametrize("dtype", LOW)
def test_a_file_gives_the_outputs_that_training_saw(case, dtype):
    rig, other = Rig(case[0], dtype), Rig(case[0], dtype)
    deltas = rig.attach(case[1], seed=1, evidence=Looked(rig))
    for parameter in deltas.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape)
    stored = load(save({name: t.detach() for name, t in deltas.tensors().items()}))
    assert {t.dtype for t in stored.values() if t.ndim} & set(LOW) <= {dtype}
    other.attach(case[1], seed=2).load(stored)
    assert torch.equal(other.outputs(), rig.outputs())


@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize("name", ["lowrank", "reparam", "scale", "xs", "sparse", "all", "two"])
def test_a_merge_changes_no_bit_of_the_outputs(name, dtype):
    kind, choice = CHOICES[name]
    rig = Rig(LAYERS[kind], dtype)
    deltas = rig.attach(choice)
    for parameter in deltas.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape)
    expected = rig.outputs()
    assert deltas.merge(rig.batch) == 0
    assert torch.equal(rig.outputs(), expected)
    assert {p.dtype for p in rig.network.parameters()} == {dtype}


def test_a_changed_weight_is_the_same_under_autocast():
    rig = Rig(LAYERS["linear"], torch.bfloat16)
    deltas = rig.attach(Choice.of("lowrank", rank=2))
    for parameter in deltas.parameters():
        parameter.data.normal_()
    (slot,) = [slot for slot in rig_slots(deltas) if slot.is_matrix()]
    expected = slot.tensor
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(slot.tensor, expected)


def rig_slots(deltas: Any) -> list[Any]:
    return [slot for site in deltas.sites.values() for slot in site.slots]


@pytest.mark.parametrize(
    "choice",
    [Choice.of("lowrank", rank=2), Choice.of("xs", rank=2), Choice.of("reparam", form="times")],
)
def test_a_changed_weight_is_the_same_inside_and_outside_of_autocast(choice):
    """A graph may compute it outside of a network's own block of autocast, and a merge does."""
    torch.manual_seed(0)
    layer = nn.Linear(8, 8)
    network = nn.Sequential(layer, nn.Linear(8, 2)).requires_grad_(False)
    unit = Unit("0", ("0.weight", "0.bias"))
    with attached(network, [unit], Plan({"0": choice})) as deltas:
        for parameter in deltas.parameters():
            nn.init.normal_(parameter)
        outside = layer.weight
        with torch.autocast("cpu", torch.bfloat16):
            inside = layer.weight
    assert torch.equal(inside, outside)
