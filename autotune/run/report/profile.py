"""Section on the fine-tuning profile: the gain of each unit when it alone is tuned."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from functools import partial
from html import escape
from typing import TYPE_CHECKING

from autotune.run.report.section import Section
from autotune.run.report.style import FROZEN_COLOR, PALETTE, new_figure
from autotune.run.report.wording import percent
from autotune.study.selection.unit_profiles import ProfileRow
from autotune.utils.table import Cell, Column, Table

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from autotune.run.results import BareStudy

TITLE = "Each unit alone"


def section(study: BareStudy) -> Section:
    """The measured profile, or the command that measures it if fewer than two units were."""
    if len({row.unit for row in study.profile if row.unit}) > 1:
        return measured(study)
    text = "This search tuned fewer than two units alone."
    sources = ["--backbone", study.settings.backbone, "--task", study.settings.task]
    command = shlex.join(["autotune", "profile", *sources])
    commands = (("Measure each unit alone, with each method", command),)
    return Section("profile", TITLE, (text,), commands=commands)


def measured(study: BareStudy) -> Section:
    """Section on every unit and choice that was tuned alone."""
    rows = study.profile
    best = max((row for row in rows if row.unit), key=lambda row: row.mean, default=None)
    best_alone = (
        f"The best single unit is {best.unit} with {best.choice}: "
        f"{percent(best.mean)} on validation."
        if best
        else "No unit was tuned alone."
    )
    search = shlex.join(["autotune", "search", "--profile", str(study.folder.path)])
    return Section(
        "profile",
        TITLE,
        (f"{study.settings.metric.capitalize()} on validation with one unit tuned.",),
        _table(rows),
        partial(draw, rows, study.settings.metric),
        best_alone,
        (("Start a search from these trials", search),),
    )


def draw(rows: Sequence[ProfileRow], metric: str) -> go.Figure:
    """Plot the metric on validation by unit in depth order, with one line per choice."""
    units = list(dict.fromkeys(row.unit for row in rows if row.unit))
    figure = new_figure(height=420)
    for at, choice in enumerate(dict.fromkeys(row.choice for row in rows if row.unit)):
        chosen = [row for row in rows if row.unit and row.choice == choice]
        figure.add_scatter(
            x=[escape(row.unit) for row in chosen],
            y=[row.mean for row in chosen],
            error_y={"array": [row.std for row in chosen]},
            mode="lines+markers",
            cliponaxis=False,
            name=choice,
            marker_color=PALETTE[at % len(PALETTE)],
        )
    for row in rows:
        if not row.unit:
            note = "head only"
            figure.add_hline(
                row.mean, line_dash="dot", line_color=FROZEN_COLOR, annotation_text=note
            )
    figure.update_xaxes(
        categoryorder="array",
        categoryarray=[escape(unit) for unit in units],
        title="unit, in depth order",
    )
    figure.update_yaxes(title=f"{metric} on validation", tickformat=".0%")
    return figure


def _table(rows: Sequence[ProfileRow]) -> Table:
    head = next((row.mean for row in rows if not row.unit), None)
    columns = (
        "unit",
        "choice",
        Column("parameters", ",d"),
        Column("validation", ".1%"),
        Column("std", ".1%"),
        Column("over the head alone", "+.1%"),
        Column("seeds", "d"),
    )
    return Table.of(columns, [_row(row, head) for row in rows])


def _row(row: ProfileRow, head: float | None) -> tuple[Cell, ...]:
    unit = row.unit or "(the head alone)"
    gain = None if head is None or not row.unit else row.mean - head
    return unit, row.choice, row.parameters, row.mean, row.std, gain, len(row.values)
