"""Sections of a report: sentences, a figure, a table and commands, which every form renders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from autotune.utils.json_text import to_json_text
from autotune.utils.table import Table

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True)
class Section:
    """One subject of a report. A section with a figure always has a table and a caption."""

    name: str
    """Name in links and in JSON."""

    title: str
    text: tuple[str, ...] = ()
    table: Table | None = None
    draw: Callable[[], go.Figure] | None = None
    """Draws the figure; only forms that show figures call it."""

    alt: str = ""
    """Caption of the figure, and its alternative text."""

    commands: tuple[tuple[str, str], ...] = ()
    """Pairs of a purpose and a command."""

    def __post_init__(self) -> None:
        assert self.draw is None or (self.table is not None and self.alt)

    def to_json(self) -> dict[str, Any]:
        """The section as a JSON value; its table stands for the figure."""
        return {
            "title": self.title,
            "text": list(self.text),
            "rows": self.table.to_json() if self.table else [],
            "commands": [{"for": why, "command": command} for why, command in self.commands],
        }

    def to_html(self) -> str:
        """HTML of the sentences and the table, for notebooks."""
        table = self.table.to_html() if self.table else ""
        return "".join(f"<p>{escape(line)}</p>" for line in self.text) + table


@dataclass(frozen=True)
class Report:
    """A title and sections in order."""

    title: str
    sections: tuple[Section, ...]


def to_json(report: Report) -> str:
    """JSON document with the sentences, rows and commands of every section."""
    sections = {section.name: section.to_json() for section in report.sections}
    return to_json_text({"format": 1, "title": report.title, "sections": sections}) + "\n"
