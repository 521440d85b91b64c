"""Section on the network in depth order: the choice of each unit, with its cost."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from html import escape
from typing import TYPE_CHECKING

from autotune.problem.plan import Choice, Plan
from autotune.problem.problem import Problem
from autotune.run.report.section import Section
from autotune.run.report.style import ROW, colour_of, new_figure

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from autotune.run.results import BareStudy


def section(study: BareStudy) -> Section | None:
    """The network with the answer, or with the best plan so far."""
    plan = best_plan_of(study)
    if plan is None:
        return None
    problem, tuned = study.problem, sum(not c.is_frozen() for c in plan.choices.values())
    what = "The answer" if study.final else "The best plan so far"
    return Section(
        "network",
        "The network",
        (
            f"{what}, from the input at the top to the head at the bottom. The head itself always "
            "trains. Stages and the whole network are listed at their first unit.",
        ),
        problem.table(plan),
        partial(draw, problem, plan),
        f"One bar per unit in depth order, as long as the cost of its choice: {tuned} of "
        f"{len(problem.units)} are changed. {plan or 'All are frozen.'}",
    )


def best_plan_of(study: BareStudy) -> Plan | None:
    """Plan of the answer, or of the best trial so far; None if no trial is complete."""
    if study.final is not None:
        return study.best.plan
    return study.leader.plan if study.leader else None


def draw(problem: Problem, plan: Plan) -> go.Figure:
    """Plot the cost of each unit's choice as a bar in the colour of its method."""
    figure = new_figure(
        height=90 + ROW * len(problem.units), barmode="overlay", bargap=0.25, showlegend=False
    )
    prices = {unit: problem.price(unit, plan[unit]) for unit in problem.units}
    for kind, units in _by_kind(problem, plan).items():
        figure.add_bar(
            x=[prices[unit] for unit in units],
            y=[escape(unit) for unit in units],
            orientation="h",
            name=kind,
            marker_color=[colour_of(plan[unit]) for unit in units],
            text=[_text(plan[unit], prices[unit]) for unit in units],
            textposition="outside",
            cliponaxis=False,
            hovertemplate="%{y}: %{text}<extra></extra>",
        )
    longest = max(prices.values(), default=0) or 1
    upwards = [escape(unit) for unit in reversed(problem.units)]
    figure.update_yaxes(categoryorder="array", categoryarray=upwards, showgrid=False, dtick=1)
    measure = problem.budget.measure.value
    figure.update_xaxes(title=measure, range=[0, 1.9 * longest], nticks=5, tickformat="~s")
    return figure


def _by_kind(problem: Problem, plan: Plan) -> Mapping[str, list[str]]:
    """Methods of a choice → units with it; each entry is one trace of the figure."""
    units: dict[str, list[str]] = {}
    for unit in problem.units:
        units.setdefault("+".join(plan[unit].names) or "frozen", []).append(unit)
    return units


def _text(choice: Choice, price: int) -> str:
    return "frozen" if choice.is_frozen() else f"{choice.label} · {price:,}"
