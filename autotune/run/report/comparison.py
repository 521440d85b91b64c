"""Section on the comparison that `compare` ran: the answer and all baselines, on equal seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from autotune.run.report.section import Section
from autotune.run.report.style import ACCENT, FROZEN_COLOR, ROW, new_figure
from autotune.run.report.wording import count, duration, percent, shown
from autotune.study.selection.comparison import WINNER, against, recommended
from autotune.utils.table import Cell, Column, Spread, Table

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from autotune.run.results import BareStudy
    from autotune.study.paired import Difference
    from autotune.study.selection.comparison import ComparisonRow


TITLE = "Comparison with all baselines"


def section(study: BareStudy) -> Section:
    """The comparison, or the command that runs it."""
    rows = study.comparison
    if len(rows) > 1 and _are_of_the_answer(rows, study):
        return compared(rows)
    text = (
        "In addition to the baselines of every search, autotune compare trains last-k, norms or "
        "biases only, LP-FT, full fine-tuning, and random search with equal compute."
    )
    commands = (("Run them over several seeds", study.command("compare")),)
    return Section("rivals", TITLE, (text,), commands=commands)


def compared(rows: list[ComparisonRow], remarks: Sequence[str] = ()) -> Section:
    """Section with the gains of the answer (the first row) over the other rows."""
    best, n_others = recommended(rows), len(rows) - 1
    text = (
        f"Recommended: {shown(best.name)}, the cheapest within the budget that cannot be told "
        "apart from the best.",
        f"Over {count(len(rows[0].tests), 'seed')}. Gains are paired, on validation, with their "
        "95 % intervals; ≈ is not distinguishable.",
        *remarks,
    )
    table = _table(rows, rows.index(best))
    if not n_others:
        return Section("rivals", TITLE, text, table)
    alt = f"Points on validation by which autotune is ahead of each of {n_others} baselines."
    return Section("rivals", TITLE, text, table, partial(draw, rows), alt)


def on_source(source: Mapping[str, Any]) -> str:
    """Sentence with the accuracy on the backbone's own task, from `compare --source`."""
    return (
        f"{source['task']} with the backbone's own head: {percent(source['off'])} with the delta "
        f"off, {percent(source['on'])} with it on ({count(source['n'], 'test example')})."
    )


def measured_cost(search: float, full: float) -> str:
    """Sentence with the search time in units of a full fine-tuning; both are in seconds."""
    return (
        f"The search took {search / full:.1f} × one full fine-tuning "
        f"({duration(full)} as measured)."
    )


def _are_of_the_answer(rows: list[ComparisonRow], study: BareStudy) -> bool:
    """Whether the comparison was made with the present answer; a resumed search may change it."""
    return bool(study.final and rows[0].name == WINNER and rows[0].label == str(study.final.plan))


def draw(rows: list[ComparisonRow]) -> go.Figure:
    """Plot the gain of the answer over each baseline, with its 95 % interval."""
    answer, *others = rows
    gains = [against(answer, other) for other in others]
    figure = new_figure(height=90 + ROW * len(others), showlegend=False)
    figure.add_scatter(
        x=[100 * gain.mean for gain in gains],
        y=[shown(other.name) for other in others],
        error_x={"array": [100 * gain.half if gain.pairs > 1 else 0.0 for gain in gains]},
        mode="markers",
        cliponaxis=False,
        marker={
            "color": [ACCENT if g.is_distinguishable else FROZEN_COLOR for g in gains],
            "size": 10,
        },
        hovertemplate="%{y}: %{x:+.1f} points<extra></extra>",
    )
    figure.add_vline(0, line_color=FROZEN_COLOR)
    figure.update_xaxes(title="points ahead on validation, 95 %")
    figure.update_yaxes(autorange="reversed")
    return figure


def _table(rows: list[ComparisonRow], marked: int) -> Table:
    columns = (
        "method",
        Column("parameters", ",d"),
        Column("bytes", ",d"),
        Column("validation", ".1%"),
        Column("test", ".1%"),
        "autotune gains, points",
        "fits",
    )
    return Table.of(columns, [_row(row, rows[0]) for row in rows], marked)


def _row(row: ComparisonRow, answer: ComparisonRow) -> tuple[Cell, ...]:
    return (
        shown(row.name),
        row.cost.parameters,
        row.cost.bytes,
        Spread(*row.validation),
        Spread(*row.test),
        "" if row is answer else _gain(against(answer, row)),
        "yes" if row.fits else "no",
    )


def _gain(difference: Difference) -> str:
    half = "" if difference.pairs < 2 else f" ± {100 * difference.half:.1f}"
    return f"{100 * difference.mean:+.1f}{half}{'' if difference.is_distinguishable else ' (≈)'}"
