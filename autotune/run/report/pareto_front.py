"""Section on the Pareto front: metric against cost, with the baselines."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from autotune.problem.budget import Measure
from autotune.run.report.section import Section
from autotune.run.report.style import ACCENT, FROZEN_COLOR, PALETTE, new_figure
from autotune.run.report.wording import count, percent, shown
from autotune.study.pareto import front, objective_price
from autotune.utils.table import Column, Table

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from autotune.run.results import BareStudy
    from autotune.study.trial_record import TrialRecord

AXES = {
    "latency": "inference time ÷ the backbone's",
    "memory": "bytes of memory of a training step",
    "bytes": "bytes of the delta file's tensors",
}
"""Second objective → axis title; `cost` has the title of the budget's measure instead."""

TRAINED = "trained parameters"
_MEASURES = {Measure.PARAMETERS: TRAINED, Measure.BYTES: "stored bytes"}


def section(study: BareStudy) -> Section | None:
    """Pareto front of the complete trials by price and value; None if no trial is complete."""
    points = front_of(study)
    if not points:
        return None
    axis = price_name(study)
    return Section(
        "front",
        f"{study.settings.metric.capitalize()} and cost",
        (
            f"{study.settings.metric.capitalize()} on validation against {axis}: the trials that "
            "no other beats at an equal or smaller price. All have the study's seed; the answer "
            "was chosen by means over several, so it may not be among them.",
        ),
        _table(study, points),
        partial(draw, study),
        f"{count(len(points), 'trial')} on the front, from {_point(study, points[0])} to "
        f"{_point(study, points[-1])}; diamonds are baselines.",
    )


def _point(study: BareStudy, trial: TrialRecord) -> str:
    return f"{percent(trial.value or 0.0)} for {format(_price(study, trial), _form(study))}"


def front_of(study: BareStudy) -> list[TrialRecord]:
    """Trials on the front by the study's second objective, by default the budget's measure."""
    price = objective_price(_objective(study), study.problem)
    assert price is not None
    return front(study.trials, price)


def price_name(study: BareStudy) -> str:
    """Title of the price axis, and heading of the price column."""
    second = _objective(study).partition(",")[2]
    return AXES.get(second, _MEASURES[study.problem.budget.measure])


def _form(study: BareStudy) -> str:
    """Number format of a price; only latencies, which are relative, have decimals."""
    return ",.2f" if _objective(study).endswith(",latency") else ",.0f"


def _objective(study: BareStudy) -> str:
    return study.settings.objective or f"{study.settings.metric},cost"


def _price(study: BareStudy, trial: TrialRecord) -> float:
    price = objective_price(_objective(study), study.problem)
    assert price is not None
    return price(trial.cost, trial.metrics)


def draw(study: BareStudy) -> go.Figure:
    """Plot trials as points, the front as steps, baselines as diamonds, the budget as a line."""
    figure = new_figure(height=420)
    complete = [t for t in study.trials if t.is_complete and t.repeat_of is None]
    points = front_of(study)
    _add(figure, study, complete, name="trials", mode="markers", colour=FROZEN_COLOR, size=7)
    _add(figure, study, points, name="front", mode="lines+markers", colour=ACCENT, size=9)
    _add_baselines(figure, study)
    answer = next((t for t in complete if study.final and t.number == study.final.number), None)
    if answer is not None:
        _add(figure, study, [answer], name="the answer", mode="markers", colour=PALETTE[1], size=15)
        figure.data[-1].marker.symbol = "star"
    if _objective(study).endswith(",cost"):
        limit = study.problem.room
        figure.add_vline(
            limit,
            line_dash="dash",
            line_color=FROZEN_COLOR,
            annotation_text="budget",
            annotation_position="bottom left",
        )
    figure.update_xaxes(title=price_name(study), rangemode="tozero", tickformat="~s")
    figure.update_yaxes(title=f"{study.settings.metric} on validation", tickformat=".0%")
    return figure


def _add(
    figure: go.Figure,
    study: BareStudy,
    trials: list[TrialRecord],
    *,
    name: str,
    mode: str,
    colour: str,
    size: int,
) -> None:
    figure.add_scatter(
        x=[_price(study, trial) for trial in trials],
        y=[trial.value for trial in trials],
        customdata=[trial.number for trial in trials],
        mode=mode,
        cliponaxis=False,
        name=name,
        line_shape="hv",
        marker={"color": colour, "size": size},
        hovertemplate="trial %{customdata}: %{y:.1%} at %{x:,}<extra></extra>",
    )


def _add_baselines(figure: go.Figure, study: BareStudy) -> None:
    """Add the baselines if the price is the budget's measure, the only one they are measured in."""
    if not _objective(study).endswith(",cost"):
        return
    baselines = study.baselines
    figure.add_scatter(
        x=[b.cost[study.problem.budget.measure] for b in baselines.values()],
        y=[b.value for b in baselines.values()],
        text=[shown(name) for name in baselines],
        mode="markers",
        cliponaxis=False,
        name="baselines",
        marker={"color": PALETTE[2], "size": 10, "symbol": "diamond"},
        hovertemplate="%{text}: %{y:.1%} at %{x:,}<extra></extra>",
    )


def _table(study: BareStudy, points: list[TrialRecord]) -> Table:
    name = price_name(study)
    price, value = Column(name, _form(study)), Column("validation", ".1%")
    if name == TRAINED:
        rows = [(t.number, _price(study, t), t.value, str(t.plan)) for t in points]
        return Table.of((Column("trial", "d"), price, value, "plan"), rows)
    columns = (Column("trial", "d"), price, Column("parameters", ",d"), value, "plan")
    priced = [(t.number, _price(study, t), t.cost.parameters, t.value, str(t.plan)) for t in points]
    return Table.of(columns, priced)
