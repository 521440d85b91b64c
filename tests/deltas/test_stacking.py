"""Several methods on one unit: which go together, and that all of them come off."""

from __future__ import annotations

import pytest
import torch

from autotune.backbones.units import Unit
from autotune.deltas import METHODS
from autotune.deltas.base import Delta
from autotune.deltas.candidates import make_choice
from autotune.deltas.costs import plan_cost
from autotune.errors import PlanError
from autotune.problem.budget import Cost
from autotune.problem.plan import Choice, Method, Plan

from .kinds import LAYERS, SPANS
from .rig import Looked, Rig, bits, same, snapshot, stored

OF_UNITS = [
    ("subtune", {"what": "norms"}),
    ("reparam", {"form": "times"}),
    ("scale", {}),
    ("lowrank", {"rank": 2}),
    ("xs", {"rank": 2}),
    ("sparse", {"k": 8}),
    ("res_prefix", {"length": 2}),
    ("res_prompt", {"length": 2}),
    ("res_adapter", {"width": 2}),
]
OF_SPANS = [("skip", {"width": 2}), ("side", {"width": 2, "curriculum": 5})]

STACKS = {
    "transformer": (LAYERS["transformer"], OF_UNITS),
    "torch-transformer": (LAYERS["torch-transformer"], OF_UNITS),
    "subtuned": (LAYERS["transformer"], [("subtune", {"what": "all"}), *OF_UNITS[6:]]),
    "reparametrized": (LAYERS["transformer"], [("reparam", {"form": "full"}), *OF_UNITS[6:]]),
    "stage": (SPANS["stage"], OF_SPANS),
    "window-stage": (SPANS["window-stage"], OF_SPANS),
}


@pytest.fixture(params=STACKS)
def stack(request) -> tuple[Rig, Choice]:
    kind, methods = STACKS[request.param]
    return Rig(kind), make_choice(list(reversed(methods)))


def test_all_methods_are_tried_with_others_or_go_alone():
    assert {name for name, _ in (*OF_UNITS, *OF_SPANS)} == {*METHODS.names()} - {"bypass"}


def test_methods_stand_in_the_tables_order(stack):
    _, choice = stack
    assert list(choice.names) == [name for name in METHODS.names() if name in choice.names]


def test_together_they_start_as_the_backbone_and_cost_the_sum(stack):
    rig, choice = stack
    before, places = rig.outputs(), {rig.unit.name: rig.site}
    alone = [plan_cost(places, Plan({rig.unit.name: Choice((m,))})) for m in choice.methods]
    deltas = rig.attach(choice)
    assert torch.equal(rig.outputs(), before)
    assert deltas.cost() == deltas.predicted == sum(alone, Cost())


def test_together_all_train_and_come_off_exactly(stack):
    rig, choice = stack
    before, values, outputs = snapshot(rig.network), bits(rig.network), rig.outputs()
    deltas = rig.attach(choice, evidence=None)
    assert all(rig.train(deltas, steps=3))
    assert not torch.equal(rig.outputs(), outputs)
    deltas.detach()
    assert snapshot(rig.network) == before
    assert same(bits(rig.network), values)
    assert torch.equal(rig.outputs(), outputs)


def test_together_they_are_saved_and_loaded(stack):
    rig, choice = stack
    deltas = rig.attach(choice)
    rig.train(deltas)
    outputs, tensors = rig.outputs(), stored(deltas)
    deltas.detach()
    rig.attach(choice, seed=1).load(tensors)
    assert torch.equal(rig.outputs(), outputs)


def test_changes_of_weights_merge_together():
    rig = Rig(LAYERS["transformer"])
    deltas = rig.attach(make_choice(OF_UNITS[:6]), evidence=Looked(rig))
    rig.train(deltas)
    together = rig.outputs()
    assert deltas.merge(rig.batch) <= 1e-5
    torch.testing.assert_close(rig.outputs(), together, rtol=1e-5, atol=1e-6)


ALL, FULL = ("subtune", {"what": "all"}), ("reparam", {"form": "full"})
SKIP, SIDE, BYPASS = (("skip", {"width": 2}), ("side", {"width": 2}), ("bypass", {"width": 2}))
REFUSED = [
    (("scale", {}), ("scale", {}), "has each method once"),
    (("lowrank", {"rank": 2}), ("lowrank", {"rank": 4}), "has each method once"),
    *((ALL, other, "subtune sets whole weights freely") for other in (FULL, *OF_UNITS[2:6])),
    *((FULL, other, "reparam sets whole weights freely") for other in (*OF_UNITS[2:6],)),
    *((other, SKIP, "mixes methods of units and of spans") for other in OF_UNITS),
    (SIDE, ("res_adapter", {"width": 2}), "mixes methods of units and of spans"),
    *((BYPASS, other, "bypass goes alone") for other in (SKIP, SIDE)),
    (BYPASS, ("scale", {}), "mixes methods of units and of spans"),
]


@pytest.mark.parametrize(("first", "second", "rule"), REFUSED)
def test_methods_that_may_not_share_a_unit_are_refused(first, second, rule):
    with pytest.raises(PlanError, match=rule):
        make_choice([first, second])
    rig = Rig(LAYERS["transformer"])
    before = snapshot(rig.network)
    with pytest.raises(PlanError, match=rule):
        rig.attach(Choice(tuple(Method(name, tuple(o.items())) for name, o in (first, second))))
    assert snapshot(rig.network) == before


@pytest.mark.parametrize(
    ("kind", "methods"), [(SPANS["stage"], OF_UNITS), (LAYERS["block"], [SKIP, SIDE, BYPASS])]
)
def test_methods_of_units_have_no_place_in_spans_nor_the_others_in_units(kind, methods):
    for method in methods:
        rig = Rig(kind)
        with pytest.raises(PlanError, match=f"{method[0]}.* has no place in '{rig.unit.name}'"):
            rig.attach(make_choice([method]))


@pytest.mark.parametrize("name", METHODS.names())
def test_every_method_says_what_it_is(name):
    delta: type[Delta] = METHODS.load(name)
    assert all((delta.paper, delta.what, delta.where, delta.inference, delta.__doc__))
    assert delta.mergeable != delta.on_path
    assert delta.on_path or not delta.on_span


def test_a_span_lies_over_units_with_choices_of_their_own():
    rig = Rig(SPANS["stage"])
    inner = Unit("first", rig.unit.levels[0])
    plan = Plan({"first": Choice.of("lowrank", rank=2), "span": Choice.of("skip", width=2)})
    before, state = rig.outputs(), snapshot(rig.network)
    deltas = rig.attach_plan(plan, [inner, rig.unit])
    assert torch.equal(rig.outputs(), before)
    assert all(rig.train(deltas))
    deltas.detach()
    assert snapshot(rig.network) == state
    assert torch.equal(rig.outputs(), before)
