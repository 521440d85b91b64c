"""Tables of plain values, the data behind every figure, as text, JSON, Markdown and HTML."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any


@dataclass(frozen=True)
class Spread:
    """A mean that is shown with its standard deviation; in JSON the mean alone."""

    mean: float
    std: float

    def __format__(self, form: str) -> str:
        return f"{self.mean:{form}} ± {self.std:{form}}"


Cell = str | int | float | Spread | None


@dataclass(frozen=True)
class Column:
    """A heading, and the format of the values below it."""

    name: str
    form: str = ""
    """Format specification such as `,d` or `.1%`; empty for text, which is left-aligned."""

    def written(self, value: Cell) -> str:
        """Value in the column's format; empty for None."""
        if value is None:
            return ""
        return value if isinstance(value, str) else format(value, self.form)


@dataclass(frozen=True)
class Table:
    """Rows of values under columns."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    marked: int | None = None
    """Index of the row to highlight."""

    @classmethod
    def of(
        cls,
        columns: Sequence[Column | str],
        rows: Sequence[Sequence[Cell]],
        marked: int | None = None,
    ) -> Table:
        """Build a table; a column given as a string holds text."""
        headings = tuple(Column(c) if isinstance(c, str) else c for c in columns)
        return cls(headings, tuple(map(tuple, rows)), marked)

    def texts(self) -> list[list[str]]:
        """Rows of formatted values."""
        pairs = [zip(self.columns, row, strict=True) for row in self.rows]
        return [[column.written(value) for column, value in row] for row in pairs]

    def to_json(self) -> list[dict[str, Any]]:
        """Rows as mappings from heading to value."""
        names = [column.name for column in self.columns]
        return [dict(zip(names, map(_plain, row), strict=True)) for row in self.rows]

    def to_markdown(self) -> str:
        """The table in Markdown, the marked row in bold."""
        rules = ["---:" if column.form else "---" for column in self.columns]
        bold = [
            [f"**{text}**" if text and at == self.marked else text for text in row]
            for at, row in enumerate(self._escaped())
        ]
        lines = [[escaped(column.name) for column in self.columns], rules, *bold]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def to_html(self) -> str:
        """The table as an HTML `<table>`, every text escaped."""
        head = "".join(f"<th scope='col'{_side(c)}>{escape(c.name)}</th>" for c in self.columns)
        rows = "".join(self._row(at, row) for at, row in enumerate(self.texts()))
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"

    def _row(self, at: int, texts: list[str]) -> str:
        pairs = zip(self.columns, texts, strict=True)
        cells = "".join(f"<td{_side(column)}>{escape(text)}</td>" for column, text in pairs)
        return f"<tr{' class=marked' if at == self.marked else ''}>{cells}</tr>"

    def _escaped(self) -> list[list[str]]:
        return [[escaped(text) for text in row] for row in self.texts()]


def escaped(text: str) -> str:
    """Escape a text so that Markdown shows it unchanged, on one line."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", " ".join(text.split()))


def _plain(value: Cell) -> str | int | float | None:
    return value.mean if isinstance(value, Spread) else value


def _side(column: Column) -> str:
    return " class=number" if column.form else ""
