"""Start-up time of commands against the bare imports, measured in alternation."""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from results import table, write_section

AUTOTUNE = str(Path(sys.executable).parent / "autotune")
PYTHON = sys.executable
PAIRS = {
    "autotune --help": (
        [AUTOTUNE, "--help"],
        [PYTHON, "-c", "import typer"],
        0.2,
    ),
    "autotune units --backbone torchvision:resnet50 --budget 1%": (
        [AUTOTUNE, "units", "--backbone", "torchvision:resnet50", "--budget", "1%"],
        [PYTHON, "-c", "import torch, torchvision"],
        2.0,
    ),
}
SEARCH = [PYTHON, "-c", "import autotune.session.session"]
LIBRARIES = [PYTHON, "-c", "import torch, optuna"]
MOST = 1.3
"""Limit on the processor time of importing a search, relative to importing torch and optuna."""


def seconds(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


def processor_seconds(command: list[str]) -> float:
    """User and system time, which other processes on the machine hardly affect."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def import_row(repeats: int) -> list[str]:
    """Row with the fastest import of a search, and of torch and optuna alone."""
    pairs = [(processor_seconds(SEARCH), processor_seconds(LIBRARIES)) for _ in range(repeats)]
    search, libraries = (min(column) for column in zip(*pairs, strict=True))
    ratio = search / libraries
    return [
        "`import autotune.session.session`",
        f"{search:.2f}",
        f"{libraries:.2f}",
        f"{ratio:.2f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    rows = []
    for name, (command, bare, limit) in PAIRS.items():
        seconds(command), seconds(bare)
        pairs = [(seconds(command), seconds(bare)) for _ in range(repeats)]
        ours, imports = (median(column) for column in zip(*pairs, strict=True))
        above = median(a - b for a, b in pairs)
        rows.append([f"`{name}`", f"{ours:.2f}", f"{imports:.2f}", f"{above:+.2f}", f"{limit:.1f}"])
    header = ["command", "seconds", "bare imports", "median difference", "at most"]
    write_section("Start", table(header, rows))
    header = ["import", "processor seconds", "torch and optuna", f"ratio, at most {MOST}"]
    write_section("Imports of a search", table(header, [import_row(repeats)]))


if __name__ == "__main__":
    main()
