"""Console on which commands print their results."""

from __future__ import annotations

import shutil

from rich.console import Console

WIDE = 120
"""Line width, in characters, in a file or pipe, which has none: enough for most tables."""


def console() -> Console:
    """Return a console on standard output, as wide as the terminal."""
    # The width is passed explicitly: rich assumes 80 columns on a dumb terminal.
    columns, lines = shutil.get_terminal_size()
    is_terminal = Console().is_terminal
    width = columns if is_terminal else max(columns, WIDE)
    return Console(highlight=False, width=width, height=lines)
