"""YAML texts that are large, damaged or hostile have a reason, and take no time."""

from __future__ import annotations

import pytest

from autotune.errors import ConfigError
from autotune.run.origins import read_assigned
from autotune.run.settings import read_mapping, read_settings
from autotune.run.yaml_text import parse_yaml

BILLION = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
)
MERGES = "\n".join(
    ["a0: &a0 {x: 1, y: 2}"]
    + [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 10)]
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (BILLION, "more than 100,000 values"),
        (MERGES, "more than 100,000 values"),
        ("&a [*a]", "contains itself"),
        ("&a {x: {y: *a}}", "contains itself"),
        ("[" * 60 + "]" * 60, "nested too deeply"),
        ("[" * 50_000, "nested too deeply"),
        ("x" * 200_001, "more than 200,000 characters"),
        ("9" * 6000, "4300 digits"),
        ("!!int x", "invalid literal"),
        ("!!float x", "could not convert"),
        ("!!bool x", "x"),
        ("!!timestamp x", "NoneType"),
        ("!!python/object:os.system x", "could not determine a constructor"),
        ("? [a]\n: b", "unhashable"),
        ("\x01", "special characters"),
        ("<<", "merge"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_text_that_is_no_value_has_a_reason(text, reason):
    with pytest.raises(ValueError, match=reason):
        parse_yaml(text)


@pytest.mark.parametrize("text", ["2020-01-01", "2020-13-45", "2020-01-01T99:00:00"])
def test_dates_are_text(text):
    assert parse_yaml(text) == text


def test_aliases_that_are_few_are_expanded():
    assert parse_yaml("{a: &a {x: 1}, b: {<<: *a, y: [*a, *a]}}")["b"] == {
        "x": 1,
        "y": [{"x": 1}] * 2,
    }
    assert parse_yaml("") is None


@pytest.mark.parametrize(
    "value",
    [
        "9" * 6000,
        "0x" + "9" * 6000,
        "100000000000000000000",
        "2020-01-01",
        "[1, 2]",
        "{a: 1}",
        "&a [*a]",
        ".inf",
        ".nan",
        "1e400",
        "x" * 10_000,
        '"\\ud800"',
    ],
    ids=lambda value: value[:20],
)
@pytest.mark.parametrize("name", ["epochs", "trials", "batch_size", "views", "timeout", "workers"])
def test_a_setting_that_is_no_usable_number_is_refused_in_one_short_line(tmp_path, name, value):
    file = tmp_path / "config.yaml"
    file.write_text(f"{name}: {value}\n")
    with pytest.raises(ConfigError) as in_file:
        read_settings({}, file=str(file))
    with pytest.raises(ConfigError) as assigned:
        read_settings(read_assigned([f"{name}={value}"]))
    for error in (in_file, assigned):
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 1000


@pytest.mark.parametrize("what", ["configuration", "space", "input"])
def test_a_file_of_aliases_is_refused(tmp_path, what):
    (tmp_path / "file.yaml").write_text(BILLION)
    with pytest.raises(ConfigError, match="more than 100,000 values"):
        read_mapping(tmp_path / "file.yaml", what)
