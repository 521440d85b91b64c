"""Sections of the report that `search`, `resume` and `status` print."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from autotune.cli.terminal import print_sections
from autotune.run.report import SECTIONS, status

if TYPE_CHECKING:
    from autotune.run.notebook import Study
    from autotune.run.report.section import Section


def print_result(study: Study, *, timings: bool) -> None:
    """Print the answer of a finished search, what it cost, and what to do next."""
    print_sections(
        [
            *_sections(study, "answer", "policy", "front"),
            status.section(study),
            *_sections(study, "cost", "use", timings=timings),
        ]
    )


def print_status(study: Study) -> None:
    """Print the state of a search and, if it was interrupted, the command that resumes it."""
    names = ("answer", "policy", "front", *(["use"] if study.state == "interrupted" else []))
    print_sections([status.section(study), *_sections(study, *names)])


def _sections(study: Study, *names: str, timings: bool = False) -> Iterator[Section]:
    """Sections that have content; the front only for a search with two objectives."""
    for name in names:
        section: Section | None = SECTIONS.load(name)(study)
        if section is None or (name == "front" and not study.front):
            continue
        is_brief = name == "policy" or (name == "cost" and not timings)
        yield replace(section, table=None, draw=None) if is_brief else section
