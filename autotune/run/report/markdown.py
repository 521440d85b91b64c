"""A report as Markdown, for pull requests and issues; tables stand in for figures."""

from __future__ import annotations

from autotune.run.report.section import Report, Section
from autotune.utils.table import escaped


def to_markdown(report: Report) -> str:
    """Markdown text with headings, sentences, tables and commands."""
    parts = [f"# {escaped(report.title)}", *(_section(section) for section in report.sections)]
    return "\n\n".join(parts) + "\n"


def _section(section: Section) -> str:
    parts = [f"## {escaped(section.title)}", *map(escaped, section.text)]
    if section.table is not None:
        parts.append(section.table.to_markdown())
    if section.commands:
        lines = "\n".join(f"{command}  # {why}" for why, command in section.commands)
        parts.append(f"~~~~\n{lines}\n~~~~")
    return "\n\n".join(parts)
