"""Reports on a terminal: one more form of their sections, as wide as the terminal is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table as Grid
from rich.text import Text

from autotune.cli.console import console
from autotune.run.report.section import Section
from autotune.utils.table import Column, Table

GAP = 2
"""Characters between two columns."""

WORD = 24
"""Characters of the longest word that is kept whole; plans contain longer ones."""


def print_sections(sections: Iterable[Section]) -> None:
    """Sections one below the other, without their images."""
    out = console()
    for section in sections:
        _print_section(out, section)


def _print_section(out: Console, section: Section) -> None:
    if section.table is None and not section.commands:
        text = Text.assemble((f"{section.title}. ", "bold"), " ".join(section.text))
        out.print(text, soft_wrap=not out.is_terminal)
        return
    out.print(Text(section.title, style="bold"))
    for line in section.text:
        out.print(Text(line), soft_wrap=not out.is_terminal)
    if section.table is not None and section.table.rows:
        out.print(Group("", rendered(section.table, out.width)))
    for line in _command_lines(section.commands, out.width):
        out.print(Text(line), soft_wrap=True)
    out.print()


def rendered(table: Table, width: int) -> RenderableType:
    """Columns where all of them fit next to each other; otherwise some lines per row."""
    table = _without_empty_columns(table)
    cells = list(zip(*table.texts(), strict=True))
    least = [_least(*pair) for pair in zip(table.columns, cells, strict=True)]
    spare = width - sum(least) - GAP * (len(least) - 1)
    if spare < 0:
        return Group(*_records(table))
    pairs = zip(table.columns, cells, strict=True)
    wanted = [max(cell_len(column.name), *map(cell_len, texts)) for column, texts in pairs]
    return _grid(table, _widths(least, wanted, spare), are_wrapped=sum(wanted) > sum(least) + spare)


def _without_empty_columns(table: Table) -> Table:
    kept = [at for at, texts in enumerate(zip(*table.texts(), strict=True)) if any(texts)]
    columns = tuple(table.columns[at] for at in kept)
    return Table(columns, tuple(tuple(row[at] for at in kept) for row in table.rows), table.marked)


def _least(column: Column, texts: Sequence[str]) -> int:
    """Width at which no word of the heading and no number is broken."""
    if column.form:
        longest = max(map(cell_len, texts))
    else:
        longest = min(WORD, max(cell_len(word) for text in texts for word in (text.split() or "")))
    return max(longest, *(cell_len(word) for word in column.name.split()))


def _widths(least: Sequence[int], wanted: Sequence[int], spare: int) -> list[int]:
    """What is left of the width goes to the columns that lack least, then to the others."""
    widths = list(least)
    for at in sorted(range(len(least)), key=lambda at: wanted[at] - least[at]):
        more = min(max(wanted[at] - least[at], 0), spare)
        widths[at] += more
        spare -= more
    return widths


def _grid(table: Table, widths: Sequence[int], *, are_wrapped: bool) -> Grid:
    """Rows that take several lines have an empty one between them."""
    grid = Grid(
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, GAP - 1, 0, 0),
        leading=int(are_wrapped),
    )
    for column, width in zip(table.columns, widths, strict=True):
        side: Literal["left", "right"] = "right" if column.form else "left"
        grid.add_column(Text(column.name), width=width, justify=side, overflow="fold")
    for at, texts in enumerate(table.texts()):
        grid.add_row(*map(Text, texts), style="bold" if at == table.marked else None)
    return grid


def _records(table: Table) -> Iterator[RenderableType]:
    """A line with the first cell of a row; below it the others with their headings."""
    for at, texts in enumerate(table.texts()):
        heading, *names = (column.name for column in table.columns)
        subject = f"{heading} {texts[0]}" if table.columns[0].form else texts[0]
        yield Text(subject, style="bold" if at == table.marked else "")
        cells = [(name, text) for name, text in zip(names, texts[1:], strict=True) if text]
        short = [f"{name} {text}" for name, text in cells if len(text) <= WORD]
        long = [f"{name}: {text}" for name, text in cells if len(text) > WORD]
        for line in (" · ".join(short), *long):
            yield Padding(Text(line), (0, 0, 0, 2))


def _command_lines(commands: Sequence[tuple[str, str]], width: int) -> Iterator[str]:
    """Commands with their purpose behind them, or above them where the lines are too long."""
    longest = max((len(command) for _, command in commands), default=0)
    lines = [f"  {command:{longest}}  # {why}" for why, command in commands]
    if max(map(len, lines), default=0) <= width:
        yield from lines
        return
    for why, command in commands:
        yield from (f"  # {why}", f"  {command}")
