"""All trials in their order, the pruned and the failed ones too."""

from __future__ import annotations

from collections import Counter
from itertools import accumulate
from typing import TYPE_CHECKING

from autotune.report.names import count, shown
from autotune.report.section import Section
from autotune.report.style import ACCENT, FROZEN, PALETTE, new_figure
from autotune.table import Column, Table

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from autotune.records import TrialRecord
    from autotune.runs import Study

MOST = 200
"""Rows of the table; of more trials the best stand there, and all in the JSON form of `status`."""

MARKS = {
    "complete": ("circle", ACCENT),
    "pruned": ("circle-open", FROZEN),
    "running": ("triangle-up-open", PALETTE[2]),
    "failed": ("x", PALETTE[4]),
    "out of memory": ("square-x-open", PALETTE[4]),
}
"""State → symbol and colour."""


def section(study: Study) -> Section | None:
    """None without trials."""
    trials = study.trials
    if not trials:
        return None
    states = Counter(trial.state_name for trial in trials)
    told = ", ".join(f"{n:,} {state}" for state, n in states.items())
    repeats = sum(trial.repeat_of is not None for trial in trials)
    text = [f"{count(len(trials), 'trial')}: {told}."]
    if repeats:
        text.append(f"{count(repeats, 'proposal')} had been tried and came from the record.")
    if len(trials) > MOST:
        text.append(f"The table has the best {MOST} and those that failed.")
    return Section(
        "history",
        "Trials",
        tuple(text),
        table(trials),
        draw(study),
        f"Value on validation by trial: {told}.",
    )


def last_value(trial: TrialRecord) -> float | None:
    """What a trial reached; of a pruned one what it had when it ended."""
    return trial.value if trial.value is not None else (trial.curve[-1] if trial.curve else None)


def draw(study: Study) -> go.Figure:
    """A point a trial, the best so far as a line, references as dotted ones."""
    figure, trials = new_figure(height=420), study.trials
    reached = [v for t in trials if (v := last_value(t)) is not None]
    floor = min(reached, default=0.0)
    for state, (symbol, colour) in MARKS.items():
        own = [trial for trial in trials if trial.state_name == state]
        if own:
            figure.add_scatter(
                x=[t.number for t in own],
                y=[floor if (v := last_value(t)) is None else v for t in own],
                text=[t.error for t in own],
                mode="markers",
                cliponaxis=False,
                name=state,
                marker={"symbol": symbol, "color": colour, "size": 8},
                hovertemplate="trial %{x}: %{y:.1%} %{text}<extra></extra>",
            )
    _add_best(figure, trials)
    _add_references(figure, study)
    few = {"dtick": 1} if len(trials) <= 12 else {}
    figure.update_xaxes(title="trial", tickformat="d", rangemode="tozero", **few)
    figure.update_yaxes(title=f"{study.settings.metric} on validation", tickformat=".0%")
    return figure


def _add_references(figure: go.Figure, study: Study) -> None:
    """As dotted lines across all trials."""
    last = max(len(study.trials) - 1, 1)
    found = {name: r for name, r in study.references.items() if "(" not in name}
    for at, (name, reference) in enumerate(found.items()):
        figure.add_scatter(
            x=[0, last],
            y=[reference["value"]] * 2,
            mode="lines",
            name=shown(name),
            line={"dash": "dot", "width": 2, "color": PALETTE[2 + at]},
            hovertemplate=f"{shown(name)}: %{{y:.1%}}<extra></extra>",
        )


def _add_best(figure: go.Figure, trials: list[TrialRecord]) -> None:
    complete = [t for t in trials if t.value is not None]
    best = list(accumulate((t.value or 0.0 for t in complete), max))
    figure.add_scatter(
        x=[t.number for t in complete],
        y=best,
        mode="lines",
        name="best so far",
        line={"shape": "hv", "color": PALETTE[1]},
        hoverinfo="skip",
    )


def table(trials: list[TrialRecord]) -> Table:
    """All trials; of many the best and the failed ones."""
    if len(trials) > MOST:
        best = sorted((t for t in trials if t.is_complete), key=lambda t: t.rank())[:MOST]
        trials = sorted([*best, *(t for t in trials if t.error)], key=lambda t: t.number)[:MOST]
    columns = (
        Column("trial", "d"),
        "state",
        Column("validation", ".1%"),
        Column("parameters", ",d"),
        Column("seconds", ".1f"),
        "plan",
        "remark",
    )
    rows = [
        (t.number, t.state_name, last_value(t), t.cost.parameters, t.seconds, str(t.plan), _said(t))
        for t in trials
    ]
    return Table.of(columns, rows)


def _said(trial: TrialRecord) -> str:
    if trial.error:
        return " ".join(trial.error.split())
    if trial.repeat_of is not None:
        return f"repeats trial {trial.repeat_of}"
    return f"from {trial.origin}" if trial.origin else ""
