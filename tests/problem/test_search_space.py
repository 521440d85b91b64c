"""A search space is read whole or refused with everything that is wrong in it."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from autotune.deltas import METHODS
from autotune.deltas.candidates import space_choices
from autotune.errors import SpaceError
from autotune.problem.search_space import SearchSpace, read_space
from autotune.run.settings import load_space, space_folder, space_names

KEYS = ["family", "units", "choices", "hyperparameters", "notes"]


def space(**changed: Any) -> dict[str, Any]:
    """A valid search space as YAML would give it, with some keys changed."""
    return {
        "family": "tiny",
        "units": {"block": {"block": r"(layer\d)\."}, "layer": "tree"},
        "choices": [{"lowrank": {"rank": [1, 2]}}, {"scale": {}}],
        "hyperparameters": {"lr": {"head": [0.01], "lowrank": [0.01], "scale": [0.1]}},
        **changed,
    }


def read(**changed: Any) -> SearchSpace:
    return read_space(space(**changed), source="tiny.yaml")


def refusal(**changed: Any) -> str:
    with pytest.raises(SpaceError, match=r"^tiny\.yaml is no search space: ") as error:
        read(**changed)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_there_are_packaged_spaces():
    assert {"any", "digits", "resnet"} <= set(space_names())


@pytest.mark.parametrize("name", space_names())
def test_a_packaged_space_loads_and_names_itself(name):
    packaged = load_space(name)
    assert packaged.family == name
    assert packaged.notes.strip()
    labels = [choice.label for choice in space_choices(packaged)]
    assert len(labels) == len(set(labels)) > 1
    assert "frozen" not in labels


@pytest.mark.parametrize("name", space_names())
def test_a_packaged_space_has_the_same_keys_in_the_same_order(name):
    data = yaml.safe_load((space_folder() / f"{name}.yaml").read_text())
    assert list(data) == KEYS
    assert list(data["units"]) == ["block", "layer", "stage"]
    assert list(data["hyperparameters"]) == ["lr", "weight_decay"]


@pytest.mark.parametrize("name", space_names())
def test_a_packaged_space_has_rates_for_all_of_its_methods(name):
    packaged = load_space(name)
    methods = {method for choice in space_choices(packaged) for method in choice.names}
    assert {"head", *methods} <= set(packaged.hyperparameters.lr) <= {"head", *METHODS.names()}
    assert all(rates == sorted(set(rates)) for rates in packaged.hyperparameters.lr.values())


def test_what_may_be_left_out_has_a_default():
    assert read().notes == ""
    assert read().hyperparameters.weight_decay == [0.0]


@pytest.mark.parametrize(
    ("changed", "place"),
    [
        ({"colour": "red"}, "colour: this key is not known"),
        ({"units": {"block": "tree", "layer": "tree", "span": "tree"}}, "units.span: this key"),
        ({"units": {"block": "tree"}}, "units.layer: this key is missing"),
        ({"units": {"block": "trees", "layer": "tree"}}, "got 'trees'"),
        ({"units": {"block": {}, "layer": "tree"}}, "units.block"),
        ({"choices": []}, "choices: "),
        ({"choices": [{}]}, "choices.0: "),
        ({"hyperparameters": {"lr": {"head": []}}}, "hyperparameters.lr.head: "),
        ({"hyperparameters": {"lr": {"head": [-0.1]}}}, "hyperparameters.lr.head.0: "),
        (
            {"hyperparameters": {"lr": {"head": [0.1]}, "weight_decay": [-1]}},
            "hyperparameters.weight_decay.0: ",
        ),
    ],
)
def test_a_wrong_key_or_value_is_named_with_its_place(changed, place):
    assert place in refusal(**changed)


def test_a_pattern_that_does_not_compile_is_named_with_the_reason():
    message = refusal(units={"block": {"stem": "stem", "block": "(layer"}, "layer": "tree"})
    assert "units.block" in message
    assert "pattern 'block' is no regular expression: missing )" in message


def test_every_problem_is_listed_at_once():
    message = refusal(colour="red", choices=[], units={"block": {"a": "("}, "layer": "tree"})
    assert message.count(";") == 2
    for part in ("colour: ", "choices: ", "units.block"):
        assert part in message


@pytest.mark.parametrize("data", [None, [], "family: tiny", 3])
def test_what_is_no_mapping_is_refused(data):
    with pytest.raises(SpaceError, match=r"must be a mapping with 'family', \.\.\., tiny\.yaml"):
        read_space(data, source="tiny.yaml")


def test_an_entry_offers_the_product_of_its_lists():
    entry = {"first": {"a": [1, 2], "b": ["x", "y"]}, "second": {"c": 3}}
    assert read(choices=[entry]).combinations() == [
        [("first", {"a": a, "b": b}), ("second", {"c": 3})] for a in (1, 2) for b in ("x", "y")
    ]
    assert read(choices=[{"scale": {}}]).combinations() == [[("scale", {})]]
    assert read(choices=[{"lowrank": {"rank": []}}]).combinations() == []


def test_options_keep_their_types():
    values = {"a": True, "b": 1, "c": 1.0, "d": "1"}
    (((_, options),),) = read(choices=[{"method": values}]).combinations()
    assert options == values
    assert [type(value) for value in options.values()] == [bool, int, float, str]


def test_choices_stand_in_the_spaces_order_and_methods_in_the_tables():
    entries = [{"scale": {}}, {"lowrank": {"rank": [2, 1]}, "scale": {}}, {"lowrank": {"rank": 2}}]
    labels = [choice.label for choice in space_choices(read(choices=entries))]
    assert labels == ["scale", "scale+lowrank-2", "scale+lowrank-1", "lowrank-2"]


def test_a_choice_that_is_offered_twice_counts_once():
    entries = [{"lowrank": {"rank": [1, 2, 1]}}, {"lowrank": {"rank": 2}}]
    labels = [choice.label for choice in space_choices(read(choices=entries))]
    assert labels == ["lowrank-1", "lowrank-2"]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"lowrnk": {"rank": 1}}, "no delta named 'lowrnk'. Did you mean 'lowrank'?"),
        ({"lowrank": {"rnk": 1}}, "lowrank has no option 'rnk'. Known: rank."),
        ({"lowrank": {}}, "lowrank needs the option 'rank'."),
        ({"lowrank": {"rank": 0}}, "rank of at least 1, got 0."),
        ({"lowrank": {"rank": True}}, "rank of at least 1, got True."),
        ({"scale": {"rank": 1}}, "scale has no option 'rank'. Known: none."),
        (
            {"subtune": {"what": "some"}},
            "subtune takes as what one of all, biases, norms, got 'some'.",
        ),
    ],
)
def test_an_unknown_method_or_option_is_refused(entry, message):
    with pytest.raises(SpaceError, match=r"^The space 'tiny': ") as error:
        space_choices(read(choices=[{"scale": {}}, entry]))
    assert message in str(error.value)


def test_every_choice_that_cannot_be_one_is_listed_at_once():
    entries = [{"lowrank": {"rank": [0, -1]}}, {"sacle": {}}, {"subtune": {"what": "all"}}]
    with pytest.raises(SpaceError) as error:
        space_choices(read(choices=entries))
    for part in ("got 0", "got -1", "'sacle'", "hyperparameters.lr has no rates for subtune"):
        assert part in str(error.value)


def test_a_space_without_rates_for_the_head_is_refused():
    rates = {"lr": {"lowrank": [0.01], "scale": [0.01]}}
    with pytest.raises(SpaceError, match=r"hyperparameters\.lr has no rates for head$"):
        space_choices(read(hyperparameters=rates))
