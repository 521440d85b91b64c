"""Pictures that the command line writes: one self-contained HTML file each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from autotune.profiles import Row


def draw_profile(rows: Sequence[Row], file: Path, metric: str) -> None:
    """Units in depth order against the metric on validation, a line for each choice."""
    import plotly.graph_objects as go

    figure = go.Figure()
    units = list(dict.fromkeys(row.unit for row in rows if row.unit))
    for choice in dict.fromkeys(row.choice for row in rows if row.unit):
        own = [row for row in rows if row.unit and row.choice == choice]
        figure.add_scatter(
            x=[row.unit for row in own],
            y=[row.mean for row in own],
            error_y={"array": [row.std for row in own]},
            mode="lines+markers",
            name=choice,
        )
    for row in rows:
        if not row.unit:
            figure.add_hline(row.mean, line_dash="dot", annotation_text="nothing but the head")
    figure.update_xaxes(categoryorder="array", categoryarray=units, title="unit, in depth order")
    figure.update_yaxes(title=f"{metric} on validation", tickformat=".0%")
    figure.update_layout(title="Each unit tuned alone", template="simple_white")
    figure.write_html(file, include_plotlyjs=True)
