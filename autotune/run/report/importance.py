"""Section on the importance of the trials' parameters for their values."""

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
"""Minimum number of complete trials; importances from fewer are mostly noise."""

MOST = 15
"""Maximum number of parameters in the figure; the table has all of them."""


def section(study: BareStudy) -> Section:
    """Importances by Optuna's PED-ANOVA (arXiv 2304.10255), fast even for thousands of trials."""
    title, complete = "Importance", sum(t.is_complete for t in study.trials)
    if complete < LEAST:
        text = f"Importances need {LEAST} complete trials, there are {complete}."
        return Section("importance", title, (text,))
    shares = study.importances()
    if not shares:
        text = "All complete trials have the same value, so no importance can be computed."
        return Section("importance", title, (text,))
    first = next(iter(shares))
    return Section(
        "importance",
        title,
        (
            "Share of each parameter in what distinguishes the best trials from the others "
            f"(PED-ANOVA over {complete:,} trials). This is an estimate, not a causal effect.",
        ),
        Table.of(("parameter", Column("importance", ".1%")), list(shares.items())),
        partial(draw, shares),
        f"The most important parameter is {first} ({percent(shares[first], 0)}).",
    )


def draw(shares: dict[str, float]) -> go.Figure:
    """Plot one bar per parameter, the most important first."""
    shown = dict(list(shares.items())[:MOST])
    figure = new_figure(height=90 + ROW * len(shown), showlegend=False)
    names = [escape(name) for name in shown]
    figure.add_bar(x=list(shown.values()), y=names, orientation="h", marker_color=ACCENT)
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_xaxes(title="importance", tickformat=".0%")
    return figure
