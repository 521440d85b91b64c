"""Options and table that the benchmarks of kills share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from results import table, write_section


def measure_kills(
    title: str,
    about: str,
    measure: Callable[[int, list[str]], str],
    *,
    backends: Sequence[str],
    kills: int,
) -> None:
    """Write the section that `measure` makes for the number of kills and backends asked for."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("backends", nargs="*", default=list(backends))
    parser.add_argument("--kills", type=int, default=kills)
    arguments = parser.parse_args()
    write_section(title, measure(arguments.kills, arguments.backends))


def with_faults(text: str, header: list[str], rows: list[list[str]], faults: Sequence[str]) -> str:
    """A text, a table, and a list of what did not hold."""
    listed = "".join(f"\n- {fault}" for fault in faults)
    return f"{text}\n\n{table(header, rows)}{listed}"
