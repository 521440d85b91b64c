"""The policy: its probabilities round by round, and its plan."""

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
"""One a round: unit → label → probability."""


def section(study: BareStudy) -> Section | None:
    """None for strategies that learn no policy, and before it is learned."""
    stage = study.policy
    if stage is None:
        return None
    rounds = _rounds(stage)
    if not rounds:
        return Section("policy", "The policy", _text(stage))
    last = rounds[-1]
    surest = min(last, key=lambda unit: last[unit].get(FROZEN.label, 0.0))
    return Section(
        "policy",
        "The policy",
        _text(stage),
        _table(rounds),
        partial(draw, rounds),
        f"After {count(len(rounds), 'round')} {surest} is the surest to be tuned "
        f"({percent(1 - last[surest].get(FROZEN.label, 0.0), 0)}).",
    )


def _text(stage: PolicyStage) -> tuple[str, ...]:
    stable = "its plan had become stable" if stage.stable else "its plan was still changing"
    same = ", the one that the proxies alone would have chosen" if stage.same_as_proxies else ""
    plan = str(stage.plan) or "everything frozen"
    text = [
        f"Learned in {count(stage.rounds, 'round')} and {duration(stage.seconds)}; "
        f"{stable}. The probabilities moved by up to {stage.moved:.2f} from those of the "
        "proxies.",
        f"Its first plan: {plan}{same}.",
    ]
    if stage.agreement is not None:
        text.append(f"The proxies of two halves of the data agree to {stage.agreement:.2f}.")
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
    """Units down, rounds across: the bluer, the likelier it is that the unit is tuned."""
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
