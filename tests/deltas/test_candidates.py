"""What a space offers on a backbone: sizes from the budget, places, and who may share a unit."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.backbones import load_backbone
from autotune.backbones.dataflow import trace
from autotune.backbones.spans import with_spans
from autotune.backbones.units import Unit, find_units
from autotune.deltas import METHODS
from autotune.deltas.attach import Deltas
from autotune.deltas.candidates import check_plan, find_candidates, make_choice, method_facts
from autotune.errors import PlanError, SpaceError
from autotune.problem.budget import Cost, Measure
from autotune.problem.method_facts import MethodFacts
from autotune.problem.plan import Choice, Plan
from autotune.run.settings import load_space

SIZED = [
    {"sparse": {"k": "budget"}},
    {"res_adapter": {"width": "budget"}},
    {"skip": {"width": "budget"}},
    {"side": {"width": "budget"}},
    {"bypass": {"width": "budget"}},
]


@pytest.fixture(scope="module")
def resnet18():
    backbone = load_backbone("torchvision:resnet18", shapes_only=True)
    space = load_space("resnet")
    flow = trace(backbone.network, backbone.input)
    units = with_spans(backbone, find_units(backbone, space.units.block), space.units, flow)
    return backbone, space, units


def offered(resnet18, entries, room, measure=Measure.PARAMETERS):
    backbone, space, units = resnet18
    chosen = space.model_copy(update={"choices": entries})
    return find_candidates(backbone.network, units, chosen, room=room, measure=measure)


@pytest.mark.parametrize("entry", SIZED, ids=lambda entry: next(iter(entry)))
@pytest.mark.parametrize("measure", Measure)
def test_sizes_from_the_budget_cost_all_of_it_a_half_and_a_quarter(resnet18, entry, measure):
    for choices in offered(resnet18, [entry], 120_000, measure).values():
        paid = [cost[measure] for cost in choices.values()]
        assert paid == sorted(paid, reverse=True)
        assert all(
            cost <= share for cost, share in zip(paid, (120_000, 60_000, 30_000), strict=False)
        )
        assert len(set(paid)) == len(paid)


@settings(max_examples=8, deadline=None, derandomize=True)
@given(room=st.integers(1, 400_000))
def test_a_size_from_the_budget_is_the_largest_that_fits(resnet18, room):
    for unit, choices in offered(resnet18, SIZED[1:2], room).items():
        for choice, cost in list(choices.items())[:1]:
            width = dict(choice.methods[0].options)["width"]
            wider = offered(resnet18, [{"res_adapter": {"width": width + 1}}], room)[unit]
            is_full = width == channels(resnet18, unit)
            assert cost.parameters <= room
            assert is_full or room < next(iter(wider.values())).parameters


def test_a_bottleneck_is_no_wider_than_its_channels(resnet18):
    for unit, choices in offered(resnet18, SIZED[1:3], 10**9).items():
        widths = [dict(choice.methods[0].options)["width"] for choice in choices]
        assert widths[0] == channels(resnet18, unit) if widths else unit == "network"


def channels(resnet18, unit):
    """Those that a unit of the network gives."""
    return 64 * 2 ** max(0, int(unit.removeprefix("layer")[0]) - 1) if "layer" in unit else 64


def test_a_full_unit_is_taken_once_with_its_own_size(resnet18):
    (choice, cost), *others = offered(resnet18, SIZED[:1], 10**9)["stem"].items()
    assert (choice.label, cost.parameters, others) == ("sparse-9536", 9_536, [])


def test_units_take_methods_of_units_and_spans_those_of_spans(resnet18):
    candidates = offered(resnet18, [*SIZED, {"lowrank": {"rank": 1}}], 120_000)
    names = {
        unit: {name for c in choices for name in c.names} for unit, choices in candidates.items()
    }
    assert names["layer1.0"] == {"sparse", "res_adapter", "lowrank"}
    assert names["layer1"] == {"skip", "side"}
    assert names["network"] == {"side", "bypass"}


def test_spans_without_a_choice_are_left_out(resnet18):
    assert "network" not in offered(resnet18, [{"lowrank": {"rank": 1}}], 10**6)


def test_without_a_known_flow_no_path_is_offered(resnet18):
    backbone, space, _ = resnet18
    bare = find_units(backbone, space.units.block)
    chosen = space.model_copy(update={"choices": [*SIZED, {"scale": {}}]})
    candidates = find_candidates(backbone.network, bare, chosen, room=10**6)
    names = {name for choices in candidates.values() for choice in choices for name in choice.names}
    assert names == {"sparse", "scale"}


@pytest.mark.parametrize("smaller", [10, 1000, 50_000])
def test_more_room_never_offers_less(resnet18, smaller):
    few, many = (offered(resnet18, SIZED, room) for room in (smaller, 4 * smaller))
    largest = [
        {u: max((c.parameters for c in cs.values()), default=0) for u, cs in f.items()}
        for f in (few, many)
    ]
    assert all(a <= largest[1].get(unit, 0) for unit, a in largest[0].items())


COMPANY = [
    ([("subtune", {"what": "all"}), ("lowrank", {"rank": 1})], "sets whole weights freely"),
    ([("reparam", {"form": "full"}), ("scale", {})], "sets whole weights freely"),
    ([("lowrank", {"rank": 1}), ("lowrank", {"rank": 2})], "has one twice"),
    ([("lowrank", {"rank": 1}), ("skip", {"width": 1})], "mixes methods of units and of spans"),
    ([("side", {"width": 1}), ("bypass", {"width": 1})], "goes alone"),
]


@pytest.mark.parametrize(("combination", "message"), COMPANY)
def test_methods_that_may_not_share_a_choice_are_refused(combination, message):
    with pytest.raises(PlanError, match=message):
        make_choice(combination)


@pytest.mark.parametrize(("combination", "message"), COMPANY[:2])
def test_a_space_that_combines_them_is_refused_as_a_whole(resnet18, combination, message):
    with pytest.raises(SpaceError, match=message):
        offered(resnet18, [dict(combination)], 10)


def test_methods_stand_in_the_tables_order():
    declared = [
        ("res_adapter", {"width": 2}),
        ("lowrank", {"rank": 1}),
        ("subtune", {"what": "norms"}),
    ]
    labels = [method.name for method in make_choice(declared).methods]
    assert labels == ["subtune", "lowrank", "res_adapter"]


def test_a_plan_with_what_goes_alone_has_nothing_else(resnet18):
    network = resnet18[0].network
    bypass, scale = Choice.of("bypass", width=1), Choice.of("scale")
    units = [Unit("network", ()), Unit("stem", ())]
    with pytest.raises(PlanError, match="must leave all else frozen, this one changes 2 units"):
        Deltas(network, units, Plan({"network": bypass, "stem": scale}), seed=0)
    check_plan(Plan({"network": bypass, "stem": Choice()}))


def test_facts_of_methods_are_those_of_the_offered_ones():
    lowrank, bypass = Choice.of("lowrank", rank=1), Choice.of("bypass", width=1)
    both = method_facts({"unit": {lowrank: Cost()}, "network": {bypass: Cost()}})
    assert both == MethodFacts(frozenset({"bypass"}), "lowrank", "rank")
    assert method_facts({"unit": {Choice.of("scale"): Cost()}}) == MethodFacts()


def test_one_method_is_the_uniform_baseline_and_has_a_size():
    deltas = [METHODS.load(name) for name in METHODS.names()]
    assert [delta.nests for delta in deltas if delta.is_uniform_baseline] == ["rank"]
