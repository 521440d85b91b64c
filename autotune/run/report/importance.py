"""Which of a trial's parameters its value depends on."""

from __future__ import annotations

from functools import partial
from html import escape
from typing import TYPE_CHECKING

from autotune.run.report.section import Section
from autotune.run.report.style import ACCENT, ROW, new_figure
from autotune.run.report.wording import percent
from autotune.utils.table import Column, Table

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from autotune.run.results import BareStudy

LEAST = 10
"""Complete trials below which nothing can be told."""

MOST = 15
"""Parameters that are shown."""


def section(study: BareStudy) -> Section:
    """By Optuna's PED-ANOVA (arXiv 2304.10255), which is quick for thousands of trials."""
    title, complete = "What matters", sum(t.is_complete for t in study.trials)
    if complete < LEAST:
        text = f"Importances need {LEAST} complete trials, there are {complete}."
        return Section("importance", title, (text,))
    shares = study.importances()
    if not shares:
        text = "All complete trials have the same value, so nothing can be told apart."
        return Section("importance", title, (text,))
    first = next(iter(shares))
    return Section(
        "importance",
        title,
        (
            "How much of what distinguishes the best trials goes back to each parameter "
            f"(PED-ANOVA over {complete:,} trials): a hint, no law.",
        ),
        Table.of(("parameter", Column("importance", ".1%")), list(shares.items())),
        partial(draw, shares),
        f"The most important parameter is {first} ({percent(shares[first], 0)}).",
    )


def draw(shares: dict[str, float]) -> go.Figure:
    """Bars, the most important first."""
    shown = dict(list(shares.items())[:MOST])
    figure = new_figure(height=90 + ROW * len(shown), showlegend=False)
    names = [escape(name) for name in shown]
    figure.add_bar(x=list(shown.values()), y=names, orientation="h", marker_color=ACCENT)
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_xaxes(title="importance", tickformat=".0%")
    return figure
