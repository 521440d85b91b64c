"""Tables of names: what a family offers, loaded when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from autotune.errors import NotBuilt, UnknownName, unknown


class Registry:
    """Names of one family, each with `module:attribute`; nothing is imported before `load`."""

    def __init__(
        self, kind: str, entries: Mapping[str, str], *, reserved: Mapping[str, str] | None = None
    ) -> None:
        self.kind = kind
        self.entries = dict(entries)
        self.reserved = dict(reserved or {})

    def names(self) -> tuple[str, ...]:
        """Known names in the order of the table."""
        return tuple(self.entries)

    def check(self, name: str) -> None:
        """Raise `NotBuilt` for a reserved name and `UnknownName` for one that is in no table."""
        if name in self.reserved:
            raise NotBuilt(
                f"The {self.kind} {name!r} is reserved but not built yet. {self.reserved[name]}"
            )
        if name not in self.entries:
            raise UnknownName(unknown(self.kind, name, self.entries))

    def load(self, name: str) -> Any:
        """The object behind `name`."""
        self.check(name)
        module, attribute = self.entries[name].split(":")
        return getattr(import_module(module), attribute)
