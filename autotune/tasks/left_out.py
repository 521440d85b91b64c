"""What a source left out, counted and named in one line."""

from __future__ import annotations

from autotune.utils.events import tell

_NAMED = 3
"""Names that are listed for each reason, as examples."""


class LeftOut:
    """Names of what is no example, by kind."""

    def __init__(self) -> None:
        self.names: dict[str, list[str]] = {}

    def add(self, kind: str, name: str) -> None:
        """Note something of a kind, such as `hidden files and folders`."""
        self.names.setdefault(kind, []).append(name)

    def report(self, source: str) -> None:
        """Report everything in one line, if there is anything."""
        if self.names:
            kinds = "; ".join(f"{kind}: {_listed(names)}" for kind, names in self.names.items())
            tell("left-out", f"Left out of {source}: {kinds}.")


def _listed(names: list[str]) -> str:
    more = ", …" if len(names) > _NAMED else ""
    return f"{len(names):,} ({', '.join(map(_readable, names[:_NAMED]))}{more})"


def _readable(name: str) -> str:
    """A name without characters that a terminal or a file cannot show."""
    return name if name.isprintable() else ascii(name)[1:-1]
