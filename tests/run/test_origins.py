"""What is given in several places: a later one stands, and each is remembered."""

from __future__ import annotations

import pytest

from autotune.errors import ConfigError
from autotune.run.origins import ASSIGNED, FILE, OPTION, GivenSettings, read_assigned, tell_origins
from autotune.run.settings import Settings, read_settings

IN_FILE = {"strategy": "greedy", "epochs": 3, "options": {"epsilon": 0.1, "direction": "forward"}}


def test_a_later_place_stands_and_is_remembered():
    merged = (
        GivenSettings().over(FILE, IN_FILE).over(ASSIGNED, {"epochs": 4}).over(OPTION, {"seed": 1})
    )
    assert merged.values == {**IN_FILE, "epochs": 4, "seed": 1}
    assert merged.origins["strategy"] == "file"
    assert merged.origins["epochs"] == "-o"
    assert merged.origins["seed"] == "option"


def test_options_of_the_strategy_are_given_one_by_one_or_together():
    merged = GivenSettings().over(FILE, IN_FILE)
    one = merged.over(ASSIGNED, {"options.direction": "backward"})
    assert one.values["options"] == {"epsilon": 0.1, "direction": "backward"}
    whole = merged.over(ASSIGNED, {"options": {"direction": "backward"}})
    assert whole.values["options"] == {"direction": "backward"}
    assert "options" not in merged.over(ASSIGNED, {"options": {}}).values


def test_every_setting_has_an_origin():
    merged = GivenSettings().over(FILE, IN_FILE).over(ASSIGNED, {"options.direction": "backward"})
    by_setting = tell_origins(read_settings({**merged.values, "out": "runs/a"}), merged.origins)
    assert list(by_setting) == list(Settings.model_fields)
    assert by_setting["options"] == "file, -o"
    assert by_setting["trials"] == "strategy default"
    assert by_setting["out"] == "the run"
    assert by_setting["seed"] == "default"


def test_a_setting_under_its_former_name_is_the_setting_of_today():
    merged = GivenSettings().over(FILE, {"fold": True}).over(OPTION, {"fuse_batchnorm": False})
    assert merged.values == {"fuse_batchnorm": False}
    assert merged.origins == {"fuse_batchnorm": "option"}
    assert tell_origins(Settings(), {"fold": "call"})["fuse_batchnorm"] == "call"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("epochs=3", 3),
        ("fuse_batchnorm=true", True),
        ("weights=", None),
        ("budget=0.5%", "0.5%"),
        ("objective=accuracy,cost", "accuracy,cost"),
        ("options={epsilon: 0.1}", {"epsilon": 0.1}),
        ("weights=a=b.pth", "a=b.pth"),
    ],
)
def test_values_after_the_sign_are_yaml(text, value):
    assert list(read_assigned([text]).values()) == [value]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs", "-o takes KEY=VALUE, got 'epochs'. Example: -o epochs=3."),
        ("=3", "-o takes KEY=VALUE, got '=3'"),
        ("options=[1", "A value must be YAML, that of -o options=[1 is not"),
    ],
)
def test_what_is_no_key_and_value_is_refused(text, message):
    with pytest.raises(ConfigError) as error:
        read_assigned([text])
    assert str(error.value).startswith(message)
