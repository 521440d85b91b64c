"""Reports of searches. A section is one file and one line of `SECTIONS`, a form one of `FORMS`.

The terminal is a further form, in `autotune.cli.terminal`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from autotune.utils.registry import Registry

if TYPE_CHECKING:
    from autotune.run.report.section import Report, Section
    from autotune.run.results import BareStudy

SECTIONS = Registry(
    "section",
    {
        "answer": "autotune.run.report.answer:section",
        "network": "autotune.run.report.network:section",
        "front": "autotune.run.report.pareto_front:section",
        "rivals": "autotune.run.report.comparison:section",
        "profile": "autotune.run.report.profile:section",
        "policy": "autotune.run.report.learned_policy:section",
        "history": "autotune.run.report.history:section",
        "importance": "autotune.run.report.importance:section",
        "cost": "autotune.run.report.time_spent:section",
        "use": "autotune.run.report.next_steps:section",
        "provenance": "autotune.run.report.provenance:section",
    },
)
"""Name → function from a study to its section, in the order of the report."""

FORMS = Registry(
    "form",
    {
        "html": "autotune.run.report.page:to_html",
        "md": "autotune.run.report.markdown:to_markdown",
        "json": "autotune.run.report.section:to_json",
    },
)
"""Name → function from a report to its text."""


def report_of(studies: Sequence[BareStudy]) -> Report:
    """Report of one search with all sections that have content, or of several side by side."""
    from autotune.run.report.runs import report_of_runs
    from autotune.run.report.section import Report

    if len(studies) > 1:
        return report_of_runs(studies)
    (study,) = studies
    title = f"{study.settings.task} within {study.problem.budget.text}"
    return Report(title, sections_of(study, SECTIONS.names()))


def sections_of(study: BareStudy, names: Sequence[str]) -> tuple[Section, ...]:
    """Sections of `SECTIONS` with these names, without those that have no content."""
    sections = (SECTIONS.load(name)(study) for name in names)
    return tuple(section for section in sections if section is not None)


def write_report(studies: Sequence[BareStudy], form: str = "html") -> str:
    """Return the report as text in one of `FORMS`."""
    text: str = FORMS.load(form)(report_of(studies))
    return text
