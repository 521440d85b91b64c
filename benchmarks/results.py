"""Sections of RESULTS.md: date, machine, versions, command and table of a benchmark."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from statistics import mean, stdev

from autotune.utils.distribution import installed_versions

RESULTS = Path(__file__).parent / "RESULTS.md"
PACKAGES = ("autotune", "torch", "torchvision", "optuna", "numpy", "scikit-learn")


def write_section(title: str, text: str, *, packages: Sequence[str] = ()) -> None:
    """Write `text` under the heading `## title`, replacing the previous section.

    The versions of `packages` are listed in addition to those of every section.
    """
    section = f"## {title}\n\n{_provenance(packages)}\n\n{text.strip()}\n\n"
    old = RESULTS.read_text() if RESULTS.is_file() else "# Results\n\n"
    pattern = re.compile(rf"^## {re.escape(title)}\n.*?(?=^## |\Z)", re.M | re.S)
    appended = f"{old.rstrip()}\n\n{section}"
    new = pattern.sub(lambda _: section, old) if pattern.search(old) else appended
    RESULTS.write_text(new.rstrip() + "\n")
    print(section)


def table(header: list[str], rows: list[list[str]]) -> str:
    """Markdown table of cells that are already text."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def spread(values: list[float], *, scale: float = 100, digits: int = 1) -> str:
    """Mean ± sample standard deviation as text, in percent by default."""
    scaled = [scale * value for value in values]
    if len(scaled) == 1:
        return f"{scaled[0]:.{digits}f}"
    return f"{mean(scaled):.{digits}f} ± {stdev(scaled):.{digits}f}"


def _provenance(packages: Sequence[str]) -> str:
    import torch

    installed = installed_versions(*PACKAGES, *packages)
    versions = ", ".join(f"{name} {version}" for name, version in installed.items())
    card = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU"
    command = " ".join(["python", *sys.argv])
    return (
        f"{date.today()}, {os.cpu_count()} cores ({platform.machine()}), {card}, "
        f"Python {platform.python_version()}, {versions}.\n`{command}`"
    )
