"""Section on the time of the search, in units of one full fine-tuning and by stage."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from autotune.run.report.section import Section
from autotune.run.report.style import PALETTE, ROW, new_figure
from autotune.run.report.wording import duration, percent
from autotune.utils.table import Column, Table
from autotune.utils.timings import STAGES

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from autotune.run.results import BareStudy


def section(study: BareStudy) -> Section:
    """Total time of the search, and a table of the seconds of all sessions by stage."""
    # Shorter stages would show as 0.0 s.
    seconds = {stage: s for stage, s in study.timings.items() if s > 0.005}
    if not study.seconds:
        return Section("cost", "What the search cost", ("No session has ended yet.",))
    order = sorted(seconds, key=lambda stage: -seconds[stage])
    rows = [(s, STAGES.get(s, "outside all stages"), seconds[s], _share(study, s)) for s in order]
    return Section(
        "cost",
        "What the search cost",
        (_sentence(study),),
        Table.of(("stage", "what", Column("seconds", ".1f"), Column("share", ".1%")), rows),
        partial(draw, {stage: seconds[stage] for stage in order}),
        f"Most of the time went into {order[0]} ({percent(_share(study, order[0]), 0)}).",
    )


def _share(study: BareStudy, stage: str) -> float:
    return study.timings[stage] / study.seconds


def _sentence(study: BareStudy) -> str:
    control = study.seconds - study.own_seconds
    text = f"The search took {duration(study.seconds)}"
    if control:
        text += f", {duration(control)} of it for random placement, a control"
    if not study.full_finetuning:
        return f"{text}. One full fine-tuning could not be timed here."
    rest, share = "the rest" if control else "that", study.own_seconds / study.full_finetuning
    unit = f"about {duration(study.full_finetuning)}, from timed steps"
    return f"{text}; {rest} is {share:.1f} × one full fine-tuning ({unit})."


def draw(seconds: dict[str, float]) -> go.Figure:
    """Plot one bar per stage."""
    figure = new_figure(height=90 + ROW * len(seconds), showlegend=False)
    figure.add_bar(
        x=list(seconds.values()),
        y=list(seconds),
        orientation="h",
        marker_color=[PALETTE[i % len(PALETTE)] for i in range(len(seconds))],
        hovertemplate="%{y}: %{x:.1f} s<extra></extra>",
    )
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_xaxes(title="seconds")
    return figure
