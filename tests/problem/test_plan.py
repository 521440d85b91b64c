"""A plan is a value: equal plans are written, named and sent alike however they were made."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.errors import PlanError
from autotune.problem.plan import FROZEN, Choice, Method, Plan

LOWRANK = Choice.of("lowrank", rank=2)
NORMS = Choice.of("subtune", what="norms")
PLAN = Plan({"layer2": NORMS + LOWRANK, "layer1": Choice.of("scale")})

examples = settings(deadline=None, derandomize=True)
words = st.text(max_size=4)
values = st.integers() | st.floats(allow_nan=False) | words | st.booleans()
options = st.dictionaries(words, values, max_size=2).map(lambda o: tuple(o.items()))
choices = st.lists(st.builds(Method, words, options), max_size=2).map(lambda m: Choice(tuple(m)))
plans = st.dictionaries(words, choices, max_size=4).map(Plan)


@pytest.mark.parametrize(
    ("choice", "label", "names"),
    [
        (FROZEN, "frozen", ()),
        (Choice.of("scale"), "scale", ("scale",)),
        (LOWRANK, "lowrank-2", ("lowrank",)),
        (NORMS + LOWRANK, "subtune-norms+lowrank-2", ("subtune", "lowrank")),
        (Choice.of("x", rate=0.5, bias=True), "x-0.5-true", ("x",)),
    ],
)
def test_a_label_joins_methods_and_their_options(choice, label, names):
    assert (choice.label, choice.names) == (label, names)
    assert choice.is_frozen() == (choice == FROZEN)


def test_canonical_json_sorts_units_and_leaves_out_frozen_ones():
    plan = Plan({"b": NORMS + LOWRANK, "c": FROZEN, "a": Choice.of("scale")})
    assert plan.to_json() == (
        '{"format":1,"units":{"a":[{"name":"scale","options":{}}],'
        '"b":[{"name":"subtune","options":{"what":"norms"}},'
        '{"name":"lowrank","options":{"rank":2}}]}}'
    )


def test_the_digest_is_the_one_that_records_hold():
    assert Plan().digest == "38b0195643f85691"
    assert Plan({"layer1": LOWRANK}).digest == "9698577bcecf8eeb"


@examples
@given(st.dictionaries(words, choices, max_size=4), st.lists(words, max_size=3), st.randoms())
def test_order_and_frozen_units_do_not_matter(chosen, idle, random):
    shuffled = [*chosen.items(), *((unit, FROZEN) for unit in idle if unit not in chosen)]
    random.shuffle(shuffled)
    plan, same = Plan(chosen), Plan(dict(shuffled))
    assert plan == same
    assert (hash(plan), plan.digest, plan.to_json()) == (hash(same), same.digest, same.to_json())
    assert list(plan) == sorted(unit for unit, choice in chosen.items() if not choice.is_frozen())


@examples
@given(plans)
def test_a_plan_survives_json_pickle_and_copies(plan):
    read = Plan.from_json(plan.to_json())
    assert read == plan
    assert read.to_json() == plan.to_json()
    assert pickle.loads(pickle.dumps(plan)) == plan
    assert copy.deepcopy(plan).digest == plan.digest
    assert len(plan.digest) == 16


@pytest.mark.parametrize(
    ("unit", "choice"),
    [
        ("layer2", LOWRANK),
        ("layer1", Choice.of("lowrank", rank=3)),
        ("layer1", Choice.of("lowrank", r=2)),
        ("layer1", Choice.of("scale", rank=2)),
        ("layer1", LOWRANK + NORMS),
        ("layer1", FROZEN),
    ],
)
def test_every_part_of_a_plan_is_in_its_digest(unit, choice):
    plan, other = Plan({"layer1": LOWRANK}), Plan({unit: choice})
    assert plan != other
    assert plan.digest != other.digest


def test_the_order_of_methods_in_a_unit_is_part_of_the_plan():
    assert Plan({"a": NORMS + LOWRANK}).digest != Plan({"a": LOWRANK + NORMS}).digest


def test_a_plan_answers_for_units_that_it_leaves_frozen():
    assert PLAN["layer1"].label == "scale"
    assert PLAN["nowhere"] is FROZEN
    assert "nowhere" not in PLAN
    assert len(PLAN) == 2
    assert PLAN.methods() == ("lowrank", "scale", "subtune")


def test_a_plan_is_written_for_people_in_one_line():
    assert str(PLAN) == "layer1=scale, layer2=subtune-norms+lowrank-2"
    assert str(Plan({"layer1": FROZEN})) == "(empty plan)"


def test_a_plan_cannot_be_changed():
    source = {"a": LOWRANK}
    plan = Plan(source)
    with pytest.raises(TypeError):
        plan.choices["a"] = FROZEN
    source["a"] = NORMS
    assert plan["a"] == LOWRANK


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[1]",
        "{}",
        '{"format":1}',
        '{"format":1,"units":[]}',
        '{"format":1,"units":{"a":null}}',
        '{"format":1,"units":{"a":{}}}',
        '{"format":1,"units":{"a":["scale"]}}',
        '{"format":1,"units":{"a":[{"name":"scale"}]}}',
        '{"format":1,"units":{"a":[{"name":7,"options":{}}]}}',
        '{"format":1,"units":{"a":[{"name":"scale","options":[]}]}}',
        '{"format":1,"units":{"a":[{"name":"lowrank","options":{"rank":[2]}}]}}',
        '{"format":1,"units":{"a":[{"name":"lowrank","options":{"rank":null}}]}}',
    ],
)
def test_what_is_no_plan_is_refused_and_shown(text):
    with pytest.raises(PlanError, match="must be JSON with 'units'") as error:
        Plan.from_json(text)
    assert repr(text[:80]) in str(error.value)


def test_a_plan_of_another_format_is_refused_with_the_way_out():
    newer = json.dumps({"format": 2, "units": {}})
    with pytest.raises(PlanError, match=r"format 1, got 2\. Update autotune"):
        Plan.from_json(newer)
