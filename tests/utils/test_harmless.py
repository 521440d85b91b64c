"""Texts from files cannot control the terminal, and JSON is JSON."""

from __future__ import annotations

import json

import numpy as np
import pytest

from autotune.utils.harmless import harmless
from autotune.utils.json_text import to_json_text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rose", "rose"),
        ("Grüße 花 👩‍🌾\tand\nmore", "Grüße 花 👩‍🌾\tand\nmore"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("a\rb\x08c\x9bd\x00", "a\\rb\\x08c\\x9bd\\x00"),
        ("abc\u202etxt.exe\u2066", "abc\\u202etxt.exe\\u2066"),
        ("\udcff\u2028", "\\udcff\\u2028"),
    ],
)
def test_control_characters_are_written_out(text, shown):
    assert harmless(text) == shown


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), np.float64("nan")])
def test_what_json_does_not_have_is_null(value):
    text = to_json_text({"a": [value, {"b": (value,)}], "c": np.float32(value)})
    assert json.loads(text, parse_constant=pytest.fail) == {"a": [None, {"b": [None]}], "c": None}


def test_other_values_stay():
    value = {"a": [1, 2.5, None, True, "x"], "1": {}}
    assert json.loads(to_json_text(value)) == value
    assert json.loads(to_json_text({"n": np.int64(3), "p": {"k"}}))["n"] == 3
