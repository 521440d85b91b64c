"""Deltas on weights that the network itself computes act on what the layer uses."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from autotune.backbones.base import describe
from autotune.backbones.inputs import InputDescription
from autotune.backbones.units import find_units
from autotune.deltas.attach import attached
from autotune.deltas.computed import computed_in, constant, settle
from autotune.deltas.costs import choice_cost, has_place
from autotune.deltas.loading import detach, load_adapted, switch
from autotune.errors import MergeError
from autotune.problem.plan import Plan
from autotune.training.evidence import TaskEvidence

from .parametrized import ALL, BOUND, CHANGES, EXACT, SUBTUNE, backbone_of, network, site_of
from .parametrized import subject as subject_of

X = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))


def state(made: nn.Module):
    named = made.state_dict().items()
    return [(name, tensor.clone()) for name, tensor in named], [type(m) for m in made.modules()]


def is_same(one, other) -> bool:
    (tensors, kinds), (others, other_kinds) = one, other
    equal = all(
        a == b and torch.equal(s, t) for (a, s), (b, t) in zip(tensors, others, strict=True)
    )
    return equal and kinds == other_kinds


@pytest.mark.parametrize("wrap", ALL.values(), ids=ALL)
def test_a_slot_has_the_layers_name_and_the_weight_that_forward_uses(wrap):
    made = network(wrap)
    site, layer = site_of(made), made[0][0]
    slot = next(slot for slot in site.slots if slot.name == "0.0.weight")
    made(X)
    assert site.name == "0.0"
    assert torch.equal(slot.tensor, layer.weight)
    assert {s.name for s in site.slots} == {"0.0.weight", "0.0.bias"}


@pytest.mark.parametrize("choice", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("wrap", ALL.values(), ids=ALL)
def test_every_change_of_weights_is_offered_and_costs_what_a_plain_layer_costs(wrap, choice):
    site, plain = site_of(network(wrap)), site_of(network(lambda layer: layer))
    assert has_place(choice, site)
    assert choice_cost(site, choice) == choice_cost(plain, choice)


@pytest.mark.parametrize("choice", [CHANGES["lowrank"], SUBTUNE], ids=["lowrank", "subtune"])
@pytest.mark.parametrize("wrap", ALL.values(), ids=ALL)
def test_detaching_restores_tensors_classes_and_outputs(wrap, choice):
    made = network(wrap)
    subject, before, outputs = subject_of(made, choice), state(made), made(X)
    tuned = subject.outputs()
    assert is_same(state(made), before)
    assert torch.equal(made(X), outputs)
    assert not tuned.isnan().any()


@pytest.mark.parametrize("wrap", ALL.values(), ids=ALL)
def test_low_rank_trains_on_the_weight_and_leaves_vectors_of_power_iterations(wrap):
    made = network(wrap)
    units = site_units(made)
    buffers = [(buffer, buffer.clone()) for buffer in made.buffers()]
    with attached(made, units, Plan({"0.0": CHANGES["lowrank"]})) as deltas:
        deltas.train()
        made(X).sum().backward()
        assert all(p.grad is not None for p in deltas.parameters())
        assert all(torch.equal(buffer, before) for buffer, before in buffers)


def site_units(made):
    return find_units(backbone_of(made), "tree", granularity="layer")


@pytest.mark.parametrize("choice", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("wrap", EXACT.values(), ids=EXACT)
def test_weight_norm_computes_the_merged_weight(wrap, choice):
    made = network(wrap)
    subject = subject_of(made, choice)
    deltas = attached(made, subject.artifact.units, subject.artifact.plan)
    with deltas as on:
        on.load(subject.artifact.part("delta"))
        expected, change = made(X), on.merge(X)
    assert change <= 1e-6
    torch.testing.assert_close(made(X), expected)


@pytest.mark.parametrize("name", ["spectral norm", "earlier spectral norm", "orthogonal", "cayley"])
def test_what_a_parametrization_cannot_compute_is_refused_by_name(name):
    made = network(BOUND[name])
    subject, before = subject_of(made, CHANGES["lowrank"]), state(made)
    rule = r"(SpectralNorm|Orthogonal) of 0\.0\.weight cannot compute the tuned weight"
    with attached(made, subject.artifact.units, subject.artifact.plan) as deltas:
        deltas.load(subject.artifact.part("delta"))
        with pytest.raises(MergeError, match=rule):
            deltas.merge(X)
    assert is_same(state(made), before)


def test_a_row_of_zeros_keeps_its_direction():
    made = nn.Sequential(nn.Sequential(parametrizations.weight_norm(nn.Linear(8, 4))))
    (tensor,) = computed_in(made)
    value = tensor.value().clone()
    value[1] = 0
    tensor.assign(value)
    torch.testing.assert_close(made[0][0].weight, value)


def test_a_deep_copy_is_not_changed_by_a_delta_on_the_original():
    made = network(parametrizations.weight_norm)
    twin = copy.deepcopy(made)
    units, outputs = site_units(made), twin(X)
    with attached(made, units, Plan({"0.0": CHANGES["scale"]})):
        assert torch.equal(twin(X), outputs)
    settle(made)
    assert torch.equal(twin(X), outputs)


@pytest.mark.parametrize("wrap", ALL.values(), ids=ALL)
def test_a_settled_network_has_plain_weights_and_the_same_outputs(wrap):
    made = network(wrap)
    expected = made(X)
    settle(made)
    torch.testing.assert_close(made(X), expected)
    assert computed_in(made) == []
    assert type(made[0][0]) is nn.Linear


@pytest.mark.parametrize("wrap", ALL.values(), ids=ALL)
def test_computed_weights_can_be_constants_for_a_while(wrap):
    made = network(wrap)
    before = state(made)
    with constant(made) as constants:
        assert "0.0.weight" in constants
        weight = constants["0.0.weight"].requires_grad_(True)
        (gradient,) = torch.autograd.grad(made(X).sum(), [weight])
        assert gradient.any()
    assert is_same(state(made), before)


@pytest.mark.parametrize("wrap", ALL.values(), ids=ALL)
def test_deltas_on_computed_weights_are_switched_by_name(wrap):
    made = network(wrap)
    one, two, before = subject_of(made, CHANGES["lowrank"]), subject_of(made, SUBTUNE), state(made)
    x, outputs = one.inputs(), {"one": one.outputs(), "two": two.outputs()}
    load_adapted(one.backbone, one.artifact, name="one")
    load_adapted(two.backbone, two.artifact, name="two")
    for name in ("one", "two", "one"):
        torch.testing.assert_close(switch(made, name)(x), outputs[name])
    detach(made)
    assert is_same(state(made), before)


def test_sparse_chooses_by_scores_of_the_computed_weight(tiny_task):
    made = nn.Sequential(parametrizations.weight_norm(nn.Conv2d(1, 4, 3)), nn.Flatten())
    made = nn.Sequential(made, nn.Linear(64, 3)).eval()
    backbone = describe(made, source="test", family="any", input=InputDescription(shape=(1, 6, 6)))
    evidence = TaskEvidence(
        backbone,
        tiny_task.train,
        input=backbone.input,
        device=torch.device("cpu"),
        fit_head=lambda: made[1],
    )
    scores = evidence.scores("fisher")["0.0.weight"]
    assert scores.shape == made[0][0].weight.shape
    assert scores.any()
