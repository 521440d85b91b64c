"""The terminal is one form of a report's sections, at every width."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from autotune.cli.terminal import print_sections
from autotune.run.report.section import Section
from autotune.run.report.wording import NARROW
from autotune.utils.table import Cell, Column, Table

PLAN = "layer1.0=subtune-norms+lowrank-1, layer2.0=lowrank-2"
ROWS: list[list[Cell]] = [
    ["linear probe (bnstats off)", 0, 0.7361, ""],
    ["autotune", 6825, 0.75, PLAN],
]
TABLE = Table.of(
    ("method", Column("parameters", ",d"), Column("validation", ".1%"), "plan"), ROWS, marked=1
)
COMMANDS = (("Test it again in a new process", "autotune evaluate runs/digits"),)


@pytest.fixture
def lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., list[str]]:
    """What a terminal without colours shows of sections at a width."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")

    def shown(*sections: Section, width: int) -> list[str]:
        monkeypatch.setenv("COLUMNS", str(width))
        print_sections(sections)
        out = capsys.readouterr().out.replace(NARROW, " ")
        return [line.rstrip() for line in out.splitlines()]

    return shown


@pytest.mark.parametrize("width", [44, 60, 80, 120])
def test_no_line_is_wider_than_the_terminal_and_no_word_is_lost(lines, width):
    section = Section("answer", "The answer", ("It reaches 66.1 % on validation. " * 4,), TABLE)
    shown = lines(section, width=width)
    assert max(map(len, shown)) <= width
    words = {word for row in TABLE.texts() for text in row for word in text.split()}
    assert words <= set(" ".join(shown).split())


def test_a_wide_table_has_a_line_per_row_and_a_narrow_one_a_record(lines):
    wide = lines(Section("answer", "The answer", table=TABLE), width=120)
    assert wide[2].split() == ["method", "parameters", "validation", "plan"]
    assert wide[5] == f"autotune                         6,825       75.0%  {PLAN}"
    narrow = lines(Section("answer", "The answer", table=TABLE), width=44)
    assert narrow[2:4] == ["linear probe (bnstats off)", "  parameters 0 · validation 73.6%"]


def test_a_column_without_content_is_left_out(lines):
    table = Table.of(("method", "over seeds", Column("test", ".1%")), [["probe", "", 0.5]])
    assert "over seeds" not in "\n".join(lines(Section("a", "A", table=table), width=80))


def test_a_section_of_sentences_alone_is_one_paragraph(lines):
    shown = lines(Section("cost", "What it cost", ("One.", "Two.")), width=80)
    assert shown == ["What it cost. One. Two."]


def test_the_purpose_of_a_command_is_above_it_where_both_are_too_long(lines):
    section = Section("use", "Use the result", commands=COMMANDS)
    command, why = "  autotune evaluate runs/digits", "  # Test it again in a new process"
    assert lines(section, width=80)[1:] == [command + why]
    assert lines(section, width=60)[1:] == [why, command]
