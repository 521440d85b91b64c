"""Section on all trials in their order, including pruned and failed ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from html import escape
from itertools import accumulate
from typing import TYPE_CHECKING

from autotune.run.report.section import Section
from autotune.run.report.style import ACCENT, FROZEN_COLOR, PALETTE, new_figure
from autotune.run.report.wording import count, percent, shown
from autotune.utils.table import Cell, Column, Table

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from autotune.run.results import BareStudy
    from autotune.study.trial_record import TrialRecord

MOST = 200
"""Maximum number of complete and of failed trials in the table of a study with more trials.

It keeps the page of a study with thousands of trials small; pruned trials are then left out.
"""

MARKS = {
    "complete": ("circle", ACCENT),
    "pruned": ("circle-open", FROZEN_COLOR),
    "running": ("triangle-up-open", PALETTE[2]),
    "interrupted": ("triangle-down-open", PALETTE[6]),
    "failed": ("x", PALETTE[4]),
    "out of memory": ("square-x-open", PALETTE[4]),
}
"""State → symbol and colour."""

BASELINE_COLORS = (PALETTE[2], PALETTE[3], PALETTE[7], PALETTE[9])
"""Colours of the baselines' lines."""


def section(study: BareStudy) -> Section | None:
    """Figure and table of the trials; None if there are none."""
    trials = study.trials
    if not trials:
        return None
    states = Counter(study.state_of(trial) for trial in trials)
    counts = ", ".join(f"{n:,} {state}" for state, n in states.items())
    text = [f"{count(len(trials), 'trial')}: {counts}.", *answered_from_record(trials)]
    if len(trials) > MOST:
        text.append(f"The table has the best {MOST} and up to {MOST} that failed.")
    return Section(
        "history",
        "Trials",
        tuple(text),
        table(study, trials),
        partial(draw, study),
        f"Value on validation by trial: {counts}.",
    )


def answered_from_record(trials: Sequence[TrialRecord]) -> list[str]:
    """List with one sentence if proposals repeated earlier trials, else empty."""
    n = sum(trial.repeat_of is not None for trial in trials)
    return [f"{count(n, 'proposal')} repeated an earlier trial and took its result."] if n else []


def last_value(trial: TrialRecord) -> float | None:
    """Value of a trial, or the last value before it was pruned or stopped; None without any."""
    return trial.value if trial.value is not None else (trial.curve[-1] if trial.curve else None)


def _reached(trial: TrialRecord) -> str:
    value = last_value(trial)
    return "no value" if value is None else percent(value)


def draw(study: BareStudy) -> go.Figure:
    """Plot one point per trial, the best so far as a line, baselines as dotted lines."""
    figure, trials = new_figure(height=420), study.trials
    reached = [v for t in trials if (v := last_value(t)) is not None]
    floor = min(reached, default=0.0)
    for state, (symbol, colour) in MARKS.items():
        chosen = [trial for trial in trials if study.state_of(trial) == state]
        if chosen:
            figure.add_scatter(
                x=[t.number for t in chosen],
                y=[floor if (v := last_value(t)) is None else v for t in chosen],
                customdata=[_reached(t) for t in chosen],
                text=[escape(t.error) for t in chosen],
                mode="markers",
                cliponaxis=False,
                name=state,
                marker={"symbol": symbol, "color": colour, "size": 8},
                hovertemplate="trial %{x}: %{customdata} %{text}<extra></extra>",
            )
    _add_best(figure, trials)
    _add_baselines(figure, study)
    few = {"dtick": 1} if len(trials) <= 12 else {}
    figure.update_xaxes(title="trial", tickformat="d", rangemode="tozero", **few)
    figure.update_yaxes(title=f"{study.settings.metric} on validation", tickformat=".0%")
    return figure


def _add_baselines(figure: go.Figure, study: BareStudy) -> None:
    """Add dotted lines; baselines with a remark in parentheses are variants and left out."""
    last = max(len(study.trials) - 1, 1)
    baselines = {name: r for name, r in study.baselines.items() if "(" not in name}
    for at, (name, baseline) in enumerate(baselines.items()):
        figure.add_scatter(
            x=[0, last],
            y=[baseline.value] * 2,
            mode="lines",
            name=shown(name),
            line={"dash": "dot", "width": 2, "color": BASELINE_COLORS[at % len(BASELINE_COLORS)]},
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


def table(study: BareStudy, trials: list[TrialRecord]) -> Table:
    """Table of all trials, or of the best and the failed ones if there are more than `MOST`."""
    if len(trials) > MOST:
        best = sorted((t for t in trials if t.is_complete), key=lambda t: t.rank())[:MOST]
        failed = [t for t in trials if t.error][:MOST]
        trials = sorted([*best, *failed], key=lambda t: t.number)
    columns = (
        Column("trial", "d"),
        "state",
        Column("validation", ".1%"),
        Column("parameters", ",d"),
        Column("seconds", ".1f"),
        "plan",
        "remark",
    )
    return Table.of(columns, [_row(study, trial) for trial in trials])


def _row(study: BareStudy, trial: TrialRecord) -> tuple[Cell, ...]:
    cells = trial.number, study.state_of(trial), last_value(trial), trial.cost.parameters
    return *cells, trial.seconds, str(trial.plan), _remark(trial)


def _remark(trial: TrialRecord) -> str:
    if trial.error:
        return " ".join(trial.error.split())
    if trial.repeat_of is not None:
        return f"repeats trial {trial.repeat_of}"
    return f"from {trial.origin}" if trial.origin else ""
