"""Types of the fields of records from files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from autotune.utils.typed import typed


@dataclass(frozen=True)
class Record:
    """One field of each kind."""

    count: int = 1
    seconds: float = 0.5
    name: str = "a"
    is_done: bool = True
    values: Mapping[str, float] | None = None
    curve: tuple[float, ...] = ()
    place: tuple[str, int] = ("a", 1)
    rows: Mapping[tuple[str, str], list[float]] | None = None
    anything: Any = None


GOOD = [
    {},
    {"seconds": 3, "curve": (1, 0.5), "values": {"loss": float("nan")}},
    {"rows": {("unit", "label"): [0.1, 2]}, "anything": {1: object()}},
]
BAD = [
    {"count": 1.5},
    {"count": "1"},
    {"count": True},
    {"seconds": None},
    {"seconds": "long"},
    {"name": 3},
    {"is_done": 1},
    {"values": []},
    {"values": {1: 1.0}},
    {"values": {"loss": "low"}},
    {"curve": [1.0]},
    {"curve": (1.0, "x")},
    {"place": ("a", 1, 2)},
    {"place": (1, "a")},
    {"rows": {("unit",): [1.0]}},
    {"rows": {("unit", "label"): [None]}},
]


@pytest.mark.parametrize("fields", GOOD)
def test_a_record_with_its_declared_types_is_returned(fields):
    record = Record(**fields)
    assert typed(record) is record


@pytest.mark.parametrize("fields", BAD)
def test_a_value_of_another_type_is_named_briefly(fields):
    (name,) = fields
    with pytest.raises(TypeError, match=f"^{name} of a Record is "):
        typed(Record(**fields))


def test_a_long_value_is_not_repeated_in_full():
    with pytest.raises(TypeError) as raised:
        typed(Record(count="x" * 10_000))
    assert len(str(raised.value)) < 300
