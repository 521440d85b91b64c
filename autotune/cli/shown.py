"""What tables share: the console, and names as they are shown."""

from __future__ import annotations

from rich.console import Console

NAMES = {
    "probe": "linear probe",
    "uniform": "uniform low rank",
    "random": "random placement",
}


def console() -> Console:
    """Standard output; wide enough for a table when it is not a terminal."""
    out = Console(highlight=False)
    return out if out.is_terminal else Console(highlight=False, width=max(out.width, 120))
