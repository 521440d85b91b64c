"""What a report consists of: sections of sentences, pictures, tables and commands."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autotune.utils.table import Table

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True)
class Section:
    """One thing that is told. A picture always has its table and its alternative text."""

    name: str
    """In links and in JSON."""

    title: str
    text: tuple[str, ...] = ()
    table: Table | None = None
    figure: go.Figure | None = None
    alt: str = ""
    """What the picture shows, for those who do not see it."""

    commands: tuple[tuple[str, str], ...] = ()
    """What a command is for, and the command."""

    def __post_init__(self) -> None:
        assert self.figure is None or (self.table is not None and self.alt)

    def to_json(self) -> dict[str, Any]:
        """Plain values, the picture as its table."""
        return {
            "title": self.title,
            "text": list(self.text),
            "rows": self.table.to_json() if self.table else [],
            "commands": [{"for": why, "command": command} for why, command in self.commands],
        }


@dataclass(frozen=True)
class Report:
    """A title, and sections in the order in which they are read."""

    title: str
    sections: tuple[Section, ...]


def to_json(report: Report) -> str:
    """One JSON document: every section's sentences, rows and commands."""
    told = {section.name: section.to_json() for section in report.sections}
    return json.dumps({"format": 1, "title": report.title, "sections": told}, indent=2) + "\n"
