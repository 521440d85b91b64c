"""Sections of a report: sentences, an image, a table and commands, for every form to render."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from autotune.utils.table import Table

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True)
class Section:
    """One subject of a report. An image always has its table and its caption."""

    name: str
    """In links and in JSON."""

    title: str
    text: tuple[str, ...] = ()
    table: Table | None = None
    draw: Callable[[], go.Figure] | None = None
    """Draws the image; only forms that show images call it."""

    alt: str = ""
    """Caption of the image, and its text for those who do not see it."""

    commands: tuple[tuple[str, str], ...] = ()
    """What a command is for, and the command."""

    def __post_init__(self) -> None:
        assert self.draw is None or (self.table is not None and self.alt)

    def to_json(self) -> dict[str, Any]:
        """Plain values, the image as its table."""
        return {
            "title": self.title,
            "text": list(self.text),
            "rows": self.table.to_json() if self.table else [],
            "commands": [{"for": why, "command": command} for why, command in self.commands],
        }

    def to_html(self) -> str:
        """Sentences and the table, as a notebook shows them."""
        table = self.table.to_html() if self.table else ""
        return "".join(f"<p>{escape(line)}</p>" for line in self.text) + table


@dataclass(frozen=True)
class Report:
    """A title, and sections in the order in which they are read."""

    title: str
    sections: tuple[Section, ...]


def to_json(report: Report) -> str:
    """One JSON document: every section's sentences, rows and commands."""
    sections = {section.name: section.to_json() for section in report.sections}
    return json.dumps({"format": 1, "title": report.title, "sections": sections}, indent=2) + "\n"
