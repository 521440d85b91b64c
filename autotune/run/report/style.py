"""Style of figures. A method has the same colour everywhere; the page sets the text colours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autotune.deltas import METHODS
from autotune.problem.plan import Choice

if TYPE_CHECKING:
    import plotly.graph_objects as go

PALETTE = (
    *("#0f7ac4", "#c4570a", "#2b8a4b", "#8b5cc7", "#b5383d", "#0b8a93"),
    *("#a86a00", "#c2458e", "#5f7d1f", "#7a6557", "#4a63c9", "#6d7278"),
)
"""Colours that are readable on a white and on a near-black background."""

FROZEN_COLOR = "#8a8f98"
ACCENT = PALETTE[0]
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
ROW = 26
"""Height in pixels of one row in figures with a row per unit: room for one line of text."""


def colour_of(choice: Choice) -> str:
    """Colour of the last method of a choice, in the order of `METHODS`; grey for *frozen*."""
    return FROZEN_COLOR if choice.is_frozen() else colour_of_method(choice.names[-1])


def colour_of_method(name: str) -> str:
    """Colour of a method in all figures and terminals; grey for a method that is unknown here.

    Methods of other packages are last in `METHODS`, so they do not change the colours of others.
    """
    names = METHODS.names()
    return PALETTE[names.index(name) % len(PALETTE)] if name in names else FROZEN_COLOR


def new_figure(height: int = 360, **layout: Any) -> go.Figure:
    """Empty figure with a transparent background, for light and dark pages."""
    import plotly.graph_objects as go

    axis = {"automargin": True, "zeroline": False, "gridcolor": "rgba(128,128,128,0.25)"}
    plain = {
        "template": "none",
        "height": height,
        "margin": {"l": 8, "r": 16, "t": 16, "b": 8},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": FONT, "size": 13, "color": "#6b7280"},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "hoverlabel": {"font": {"family": FONT}},
        "autotypenumbers": "strict",
        "xaxis": axis,
        "yaxis": axis,
    }
    return go.Figure(layout=go.Layout(**plain)).update_layout(**layout)
