"""Each setting has a description, which agrees with its type."""

from __future__ import annotations

from typing import Literal, get_args, get_origin

import pytest

from autotune.run.setting_description import Panel
from autotune.run.settings import Settings, descriptions

NAMES = list(Settings.model_fields)
ENUMERATED = [
    (name, get_args(field.annotation))
    for name, field in Settings.model_fields.items()
    if get_origin(field.annotation) is Literal
]


@pytest.mark.parametrize("name", NAMES)
def test_a_description_is_one_or_two_sentences_of_one_line(name):
    text = descriptions()[name].text
    assert text[0].isupper() and text.endswith(".")
    assert "\n" not in text and "{" not in text
    assert len(text) < 130


def test_settings_are_declared_panel_by_panel():
    panels = [descriptions()[name].panel for name in NAMES]
    assert panels == sorted(panels, key=list(Panel).index)


@pytest.mark.parametrize(("name", "values"), ENUMERATED)
def test_values_follow_from_the_type_and_stand_in_the_text(name, values):
    assert descriptions()[name].values == values
    assert all(value in descriptions()[name].text for value in values)
    assert descriptions()[name].metavar == "NAME"


@pytest.mark.parametrize("name", NAMES)
def test_all_but_flags_have_a_metavar(name):
    setting = descriptions()[name]
    assert bool(setting.metavar) == (setting.kind != "boolean")


def test_numbers_have_bounds():
    bounds = {name: setting.bounds for name, setting in descriptions().items() if setting.bounds}
    assert bounds["epochs"] == "from 1"
    assert bounds["timeout"] == "above 0"
    assert bounds["views"] == "from 0"
    assert "budget" not in bounds
