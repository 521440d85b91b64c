"""What a shell offers after a tab; quick, so nothing heavy is imported here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from glob import escape, glob

Completion = Callable[[str], list[str]]

KINDS = "backbones tasks methods strategies pruners spaces metrics formats"
PARTS = "test val train"


def among(values: str) -> Completion:
    """Completion of one of these names."""

    def complete(incomplete: str) -> list[str]:
        return _beginning(incomplete, values.split())

    return complete


def runs(incomplete: str) -> list[str]:
    """Run folders that begin so, and those in folders that begin so, such as runs/."""
    begin = escape(incomplete)
    configurations = (glob(f"{begin}*{deeper}/config.yaml") for deeper in ("", "/*"))
    return sorted(path.removesuffix("/config.yaml") for paths in configurations for path in paths)


def spaces(incomplete: str) -> list[str]:
    """Search spaces by name."""
    from autotune.run.settings import space_names

    return _beginning(incomplete, space_names())


def formats(incomplete: str) -> list[str]:
    """Forms of an export."""
    from autotune.deploy.export import FORMATS

    return _beginning(incomplete, FORMATS.names())


def methods(incomplete: str) -> list[str]:
    """The last of several methods with commas between, those of other packages too."""
    from autotune.deltas import METHODS

    before, comma, last = incomplete.rpartition(",")
    return [before + comma + name for name in _beginning(last, METHODS.names())]


def _beginning(incomplete: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
