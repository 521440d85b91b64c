"""Options that all task sources read their data with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DataOptions:
    """What to do with examples that cannot be used as they are."""

    skip_bad: bool = False
    """Leave out examples that cannot be read, instead of refusing the data set."""

    skip_unlabelled: bool = False
    """Leave out examples without a label, instead of refusing the data set."""

    group: int | None = None
    """Level of folders below a class whose name says which images belong together, from 1."""


DEFAULTS = DataOptions()
"""Options that leave nothing out."""


@dataclass(frozen=True)
class Skipped:
    """Example that was left out on request."""

    name: str
    """Path of a file, or part and index of an example."""

    reason: str
    """Reason why it could not be used, in one line."""
