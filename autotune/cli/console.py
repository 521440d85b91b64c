"""The console that commands print their results on."""

from __future__ import annotations

import shutil

from rich.console import Console

WIDE = 120
"""Characters of a line in a file or pipe, which has no width: enough for most tables."""


def console() -> Console:
    """Standard output, as wide as the terminal; rich takes every dumb one to be 80 wide."""
    columns, lines = shutil.get_terminal_size()
    is_terminal = Console().is_terminal
    width = columns if is_terminal else max(columns, WIDE)
    return Console(highlight=False, width=width, height=lines)
