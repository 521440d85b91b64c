"""Reports on a terminal, fitted to its width."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from textwrap import fill
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.table import Table as Grid
from rich.text import Text

from autotune.cli.console import console
from autotune.run.report.section import Section
from autotune.run.report.wording import NARROW
from autotune.utils.table import Column, Table

GAPS = (2, 1)
"""Characters between two columns; the narrow gap is used if the columns do not fit otherwise."""

MAX_UNBROKEN_TEXT = 16
"""Longest text, in characters, that is never wrapped: names, and means with their spread fit."""

MAX_UNBROKEN_WORD = 36
"""Longest word, in characters, that is never broken; plans contain longer ones.

A larger value keeps more plans in one piece, but fewer tables fit an 80-column terminal.
"""


def print_sections(sections: Iterable[Section]) -> None:
    """Print sections one below the other, without their figures."""
    out = console()
    for at, section in enumerate(sections):
        if at:
            out.print()
        _print_section(out, section)


def _print_section(out: Console, section: Section) -> None:
    if section.table is None and not section.commands:
        text = Text(_wrapped(out, " ".join((f"{section.title}.", *section.text))))
        text.stylize("bold", 0, len(section.title) + 1)
        out.print(text, soft_wrap=True)
        return
    out.print(Text(section.title, style="bold"))
    for line in section.text:
        out.print(Text(_wrapped(out, line)), soft_wrap=True)
    if section.table is not None and section.table.rows:
        out.print(Group("", rendered(section.table, out.width)))
        if section.commands:
            out.print()
    for line in _command_lines(section.commands, out.width):
        out.print(Text(line), soft_wrap=True)


def _wrapped(out: Console, text: str) -> str:
    """Wrap `text` to the terminal. Not left to rich, which also breaks at no-break spaces."""
    return _lines(text, out.width) if out.is_terminal else text


def _lines(text: str, width: int, indent: str = "") -> str:
    return fill(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def rendered(table: Table, width: int) -> RenderableType:
    """Lay out a table as columns if they fit `width`, otherwise as a few lines per row."""
    table = _without_empty_columns(table)
    cells = list(zip(*table.texts(), strict=True))
    least = [_least(*pair) for pair in zip(table.columns, cells, strict=True)]
    pairs = zip(table.columns, cells, strict=True)
    wanted = [max(cell_len(column.name), *map(cell_len, texts)) for column, texts in pairs]
    for gap in GAPS:
        spare = width - sum(least) - gap * (len(least) - 1)
        if spare >= 0:
            return _grid(table, _widths(least, wanted, spare), gap)
    return Group(*_records(table, width))


def _without_empty_columns(table: Table) -> Table:
    kept = [at for at, texts in enumerate(zip(*table.texts(), strict=True)) if any(texts)]
    columns = tuple(table.columns[at] for at in kept)
    return Table(columns, tuple(tuple(row[at] for at in kept) for row in table.rows), table.marked)


def _least(column: Column, texts: Sequence[str]) -> int:
    """Smallest width that breaks no word of the heading, no number and no short text."""
    heading = max(map(cell_len, column.name.split()))
    return max(heading, *(_least_of(text, is_number=bool(column.form)) for text in texts))


def _least_of(text: str, *, is_number: bool) -> int:
    if is_number or cell_len(text) <= MAX_UNBROKEN_TEXT:
        return cell_len(text)
    return min(max(MAX_UNBROKEN_TEXT, *map(cell_len, text.split())), MAX_UNBROKEN_WORD)


def _widths(least: Sequence[int], wanted: Sequence[int], spare: int) -> list[int]:
    """Share the spare width equally; wider columns get what a column does not need."""
    lacking = [max(want - width, 0) for want, width in zip(wanted, least, strict=True)]
    widths = list(least)
    for n_served, at in enumerate(sorted(range(len(least)), key=lacking.__getitem__)):
        more = min(lacking[at], spare // (len(least) - n_served))
        widths[at] += more
        spare -= more
    return widths


def _grid(table: Table, widths: Sequence[int], gap: int) -> Grid:
    """Lay out a table as columns, with an empty line between rows if any of them wraps."""
    pairs = [
        (text, width) for row in table.texts() for text, width in zip(row, widths, strict=True)
    ]
    are_wrapped = any(cell_len(text) > width for text, width in pairs)
    grid = Grid(
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, gap - 1, 0, 0),
        leading=int(are_wrapped),
    )
    for column, width in zip(table.columns, widths, strict=True):
        side: Literal["left", "right"] = "right" if column.form else "left"
        grid.add_column(Text(column.name), width=width, justify=side, overflow="fold")
    for at, texts in enumerate(table.texts()):
        grid.add_row(*map(Text, texts), style="bold" if at == table.marked else None)
    return grid


def _records(table: Table, width: int) -> Iterator[Text]:
    """Lay out each row as a line with its first cell, and the other cells, labelled, below."""
    heading, *names = (column.name for column in table.columns)
    for at, (first, *texts) in enumerate(table.texts()):
        subject = f"{heading} {first}" if table.columns[0].form else first
        yield Text(subject, style="bold" if at == table.marked else "")
        cells = [(name, text) for name, text in zip(names, texts, strict=True) if text]
        short = [f"{name} {text}" for name, text in cells if len(text) <= MAX_UNBROKEN_TEXT]
        long = [f"{name}: {text}" for name, text in cells if len(text) > MAX_UNBROKEN_TEXT]
        # No-break spaces keep each heading and its value on one line.
        together = " · ".join(item.replace(" ", NARROW) for item in short)
        for line in (together, *long):
            yield Text(_lines(line, width, indent="  "))


def _command_lines(commands: Sequence[tuple[str, str]], width: int) -> Iterator[str]:
    """Commands, each followed by its purpose, or below it if the lines would be too long."""
    longest = max((len(command) for _, command in commands), default=0)
    lines = [f"  {command:{longest}}  # {why}" for why, command in commands]
    if max(map(len, lines), default=0) <= width:
        yield from lines
        return
    for why, command in commands:
        yield from (f"  # {why}", f"  {command}")
