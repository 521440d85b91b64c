"""What tables share: the console."""

from __future__ import annotations

from rich.console import Console


def console() -> Console:
    """Standard output; wide enough for a table when it is not a terminal."""
    out = Console(highlight=False)
    return out if out.is_terminal else Console(highlight=False, width=max(out.width, 120))
