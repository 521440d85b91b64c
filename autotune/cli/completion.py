"""Shell completion. It runs on every Tab, so this module imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from glob import escape, glob

Completion = Callable[[str], list[str]]

KINDS = "backbones tasks methods strategies pruners spaces metrics formats"
PARTS = "test val train"


def among(values: str) -> Completion:
    """Return the completion of one of the names in `values`, separated by spaces."""

    def complete(incomplete: str) -> list[str]:
        return _starting_with(incomplete, values.split())

    return complete


def runs(incomplete: str) -> list[str]:
    """Complete run folders: those that start with `incomplete`, or whose parent (runs/) does."""
    prefix = escape(incomplete)
    configurations = (glob(f"{prefix}*{below}/config.yaml") for below in ("", "/*"))
    return sorted(path.removesuffix("/config.yaml") for paths in configurations for path in paths)


def spaces(incomplete: str) -> list[str]:
    """Complete names of packaged search spaces."""
    from autotune.run.settings import space_names

    return _starting_with(incomplete, space_names())


def formats(incomplete: str) -> list[str]:
    """Complete export formats."""
    from autotune.deploy.export import FORMATS

    return _starting_with(incomplete, FORMATS.names())


def methods(incomplete: str) -> list[str]:
    """Complete the last name of a comma-separated list of methods, plugins included."""
    from autotune.deltas import METHODS

    before, comma, last = incomplete.rpartition(",")
    return [before + comma + name for name in _starting_with(last, METHODS.names())]


def _starting_with(incomplete: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
