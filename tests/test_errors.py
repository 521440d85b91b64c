"""Lines that messages quote from errors of others."""

from __future__ import annotations

import pytest

from autotune.errors import first_line, last_line, unknown
from autotune.problem.job import Failure


@pytest.mark.parametrize(
    ("error", "first", "last"),
    [
        (ValueError("one line"), "one line", "one line"),
        (ValueError("\n first\nsecond \n"), "first", "second"),
        (ValueError(), "ValueError", "ValueError"),
        (MemoryError("  \n"), "MemoryError", "MemoryError"),
    ],
)
def test_a_message_is_quoted_by_one_line(error, first, last):
    assert first_line(error) == first
    assert last_line(error) == last


def test_a_failure_without_a_message_names_its_type():
    assert Failure.of(MemoryError()) == Failure("MemoryError", "MemoryError")


def test_of_very_many_known_names_some_are_listed():
    text = unknown("task", "t5x", (f"t{number}" for number in range(10_000)))
    assert "and 9,900 more." in text and len(text) < 1000
