"""Regular expressions of users and files, with a time limit: some take for ever on a short name."""

from __future__ import annotations

import re
from collections.abc import Iterable

from autotune.errors import first_line
from autotune.utils.time_limit import OutOfTime, time_limit

SECONDS = 2.0
"""Time limit for one pattern on all names; a network of 10,000 parameters takes some 10 ms."""


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Compile a regular expression; raises `ValueError` with the reason if it is none."""
    try:
        with time_limit(SECONDS):
            return re.compile(pattern)
    except OutOfTime:
        raise ValueError(f"it takes more than {SECONDS:g} s to compile") from None
    except (re.error, RecursionError, OverflowError, MemoryError) as error:
        raise ValueError(first_line(error)) from error


def match_starts(pattern: str, names: Iterable[str]) -> dict[str, re.Match[str]]:
    """Name → match at its start, for the names that match.

    Raises `ValueError` with the reason for a pattern that is no regular expression, or too slow.
    """
    compiled = compile_pattern(pattern)
    try:
        with time_limit(SECONDS):
            return {name: match for name in names if (match := compiled.match(name))}
    except OutOfTime:
        raise ValueError(
            f"it takes more than {SECONDS:g} s on names of parameters, as patterns with a "
            "repetition inside a repetition do"
        ) from None
