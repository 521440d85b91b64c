"""The fine-tuning profile: what each unit gives when it alone is tuned."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from autotune.run.report.section import Section
from autotune.run.report.style import FROZEN_COLOR, PALETTE, new_figure
from autotune.run.report.wording import percent
from autotune.study.selection.unit_profiles import ProfileRow
from autotune.utils.table import Column, Table

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from autotune.run.results import BareStudy


def section(study: BareStudy) -> Section:
    """As far as plans of one unit were tried; otherwise how to measure it."""
    rows = [row for row in study.profile if row.unit]
    if len({row.unit for row in rows}) < 2:
        text = "Fewer than two units were tuned alone here."
        given = ["--backbone", study.settings.backbone, "--task", study.settings.task]
        commands = (
            ("Which unit pays, and by which method", shlex.join(["autotune", "profile", *given])),
        )
        return Section("profile", "Each unit alone", (text,), commands=commands)
    best = max(rows, key=lambda row: row.mean)
    return Section(
        "profile",
        "Each unit alone",
        (f"{study.settings.metric.capitalize()} on validation with one unit tuned.",),
        _table(study.profile),
        draw(study.profile, study.settings.metric),
        f"Best alone is {best.unit} with {best.choice}: {percent(best.mean)} on validation.",
    )


def draw(rows: Sequence[ProfileRow], metric: str) -> go.Figure:
    """Units in depth order against the metric on validation, a line for each choice."""
    units = list(dict.fromkeys(row.unit for row in rows if row.unit))
    figure = new_figure(height=420)
    for at, choice in enumerate(dict.fromkeys(row.choice for row in rows if row.unit)):
        own = [row for row in rows if row.unit and row.choice == choice]
        figure.add_scatter(
            x=[escape(row.unit) for row in own],
            y=[row.mean for row in own],
            error_y={"array": [row.std for row in own]},
            mode="lines+markers",
            cliponaxis=False,
            name=choice,
            marker_color=PALETTE[at % len(PALETTE)],
        )
    for row in rows:
        if not row.unit:
            note = "nothing but the head"
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
    columns = (
        "unit",
        "choice",
        Column("parameters", ",d"),
        Column("validation", ".1%"),
        Column("std", ".1%"),
        Column("seeds", "d"),
    )
    told = [
        (r.unit or "(the head alone)", r.choice, r.parameters, r.mean, r.std, len(r.values))
        for r in rows
    ]
    return Table.of(columns, told)
