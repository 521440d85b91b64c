"""Section on the learned policy: its probabilities by round, and its plan."""

from __future__ import annotations

from functools import partial
from html import escape
from typing import TYPE_CHECKING

from autotune.problem.plan import FROZEN
from autotune.run.report.section import Section
from autotune.run.report.style import ROW, new_figure
from autotune.run.report.wording import count, duration, percent
from autotune.study.stages import PolicyStage
from autotune.utils.table import Column, Table

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from autotune.run.results import BareStudy

Rounds = list[dict[str, dict[str, float]]]
"""For each round: unit → label → probability."""


def section(study: BareStudy) -> Section | None:
    """The learned policy; None if the strategy learns none or has not learned it yet."""
    stage = study.policy
    if stage is None:
        return None
    rounds = _rounds(stage)
    if not rounds:
        return Section("policy", "The policy", _text(stage))
    last = rounds[-1]
    likeliest = min(last, key=lambda unit: last[unit].get(FROZEN.label, 0.0))
    return Section(
        "policy",
        "The policy",
        _text(stage),
        _table(rounds),
        partial(draw, rounds),
        f"After {count(len(rounds), 'round')} {likeliest} is the most likely to be tuned "
        f"({percent(1 - last[likeliest].get(FROZEN.label, 0.0), 0)}).",
    )


def _text(stage: PolicyStage) -> tuple[str, ...]:
    stable = "its plan had become stable" if stage.stable else "its plan was still changing"
    same = ", the one that the proxies alone would have chosen" if stage.same_as_proxies else ""
    plan = str(stage.plan) or "everything frozen"
    text = [
        f"Learned in {count(stage.rounds, 'round')} and {duration(stage.seconds)}; "
        f"{stable}. The probabilities differ from those of the proxies by up to "
        f"{stage.moved:.2f}.",
        f"Its first plan: {plan}{same}.",
    ]
    if stage.agreement is not None:
        text.append(
            f"Rank correlation of the proxies on two halves of the data: {stage.agreement:.2f}."
        )
    if stage.left_out:
        text.append(f"Left to the trials alone: {', '.join(stage.left_out)}.")
    return tuple(text)


def _rounds(stage: PolicyStage) -> Rounds:
    rounds: Rounds = []
    for probabilities in stage.probabilities:
        by_unit: dict[str, dict[str, float]] = {}
        for (unit, label), probability in probabilities.items():
            by_unit.setdefault(unit, {})[label] = probability
        rounds.append(by_unit)
    return rounds


def draw(rounds: Rounds) -> go.Figure:
    """Plot a heatmap of units by rounds; bluer units are more likely to be tuned."""
    units = list(rounds[0])
    tuned = [[1 - chances[u].get(FROZEN.label, 0.0) for chances in rounds] for u in units]
    figure = new_figure(height=110 + ROW * len(units))
    figure.add_heatmap(
        z=tuned,
        x=[f"{at + 1}" for at in range(len(rounds))],
        y=[escape(unit) for unit in units],
        zmin=0,
        zmax=1,
        colorscale=[[0, "#8fa3b8"], [1, "#0b5fa8"]],
        xgap=2,
        ygap=2,
        colorbar={"tickformat": ".0%", "thickness": 12, "outlinewidth": 0},
        hovertemplate="%{y}, round %{x}: %{z:.0%} tuned<extra></extra>",
    )
    figure.update_xaxes(title="round after the warm-up", type="category", showgrid=False)
    figure.update_yaxes(autorange="reversed", showgrid=False, dtick=1)
    return figure


def _table(rounds: Rounds) -> Table:
    columns = (
        "unit",
        Column("tuned at first", ".0%"),
        Column("tuned at last", ".0%"),
        "likeliest choice at last",
        Column("its probability", ".0%"),
    )
    rows = []
    for unit, last in rounds[-1].items():
        best = max(last, key=lambda label, last=last: last[label])  # type: ignore[misc]
        first = 1 - rounds[0][unit].get(FROZEN.label, 0.0)
        rows.append((unit, first, 1 - last.get(FROZEN.label, 0.0), best, last[best]))
    return Table.of(columns, rows)
