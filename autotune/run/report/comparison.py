"""What `compare` ran: the answer beside everything else over the same seeds, pair by pair."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autotune.run.report.section import Section
from autotune.run.report.style import ACCENT, FROZEN_COLOR, ROW, new_figure
from autotune.run.report.wording import shown
from autotune.study.selection.comparison import WINNER, against, recommended
from autotune.utils.table import Cell, Column, Table

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from autotune.run.results import BareStudy
    from autotune.study.selection.comparison import ComparisonRow


def section(study: BareStudy) -> Section:
    """Gains with their 95 % intervals; how to get them where `compare` has not run."""
    rows = study.rivals
    if len(rows) < 2 or not _are_of_the_answer(rows, study):
        text = (
            "Beside the references of every search there are more: last-k, norms or biases only, "
            "LP-FT, full fine-tuning, random search with equal compute."
        )
        commands = (("Run them over several seeds", study.command("compare")),)
        return Section("rivals", "Against everything else", (text,), commands=commands)
    best = shown(recommended(rows).name)
    return Section(
        "rivals",
        "Against everything else",
        (f"Recommended is {best}: the cheapest in the budget that is not told from the best.",),
        _table(rows),
        draw(rows),
        f"Points on validation by which autotune is ahead of each of {len(rows) - 1} rivals.",
    )


def _are_of_the_answer(rows: list[ComparisonRow], study: BareStudy) -> bool:
    """Whether they were compared with the plan that is the answer now."""
    return bool(study.final and rows[0].name == WINNER and rows[0].label == study.final["label"])


def draw(rows: list[ComparisonRow]) -> go.Figure:
    """A rival a line: by how much the answer is ahead, with its interval."""
    ours, *others = rows
    gains = [against(ours, other) for other in others]
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


def _table(rows: list[ComparisonRow]) -> Table:
    ours = rows[0]
    columns = (
        "method",
        Column("parameters", ",d"),
        Column("validation", ".1%"),
        Column("test", ".1%"),
        "autotune gains, points",
    )
    return Table.of(columns, [_row(row, ours) for row in rows], marked=0)


def _row(row: ComparisonRow, ours: ComparisonRow) -> tuple[Cell, ...]:
    gain = ""
    if row is not ours:
        found = against(ours, row)
        half = "" if found.pairs < 2 else f" ± {100 * found.half:.1f}"
        gain = f"{100 * found.mean:+.1f}{half}{'' if found.is_distinguishable else ' (≈)'}"
    return shown(row.name), row.cost.parameters, row.validation[0], row.test[0], gain
