"""Tables of names: the members of a family, imported when they are first needed."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from autotune.errors import NotBuilt, UnknownName, unknown
from autotune.utils.events import warn

OURS = "autotune"
"""Package of the built-in names."""


class Registry:
    """Names of one family, each with `module:attribute`; nothing is imported before `load`.

    With a `group` of entry points, other packages can add subclasses of `base` under new names.
    """

    def __init__(
        self,
        kind: str,
        entries: Mapping[str, str],
        *,
        reserved: Mapping[str, str] | None = None,
        group: str | None = None,
        base: str = "builtins:object",
    ) -> None:
        self.kind = kind
        self.entries = dict(entries)
        self.reserved = dict(reserved or {})
        self.group = group
        self.base = base

    @cached_property
    def added(self) -> dict[str, EntryPoint]:
        """Entry points of installed packages by name; one whose name is taken causes a warning."""
        points = entry_points(group=self.group) if self.group else ()
        points_by_name: dict[str, EntryPoint] = {}
        for point in sorted(points, key=lambda point: point.name):
            if point.name in self.entries or point.name in points_by_name:
                known = points_by_name.get(point.name)
                first = OURS if known is None else _package(known)
                warn(
                    f"The {self.kind} {point.name!r} of the package {_package(point)} is left out: "
                    f"{first} has that name already. Rename it there."
                )
            else:
                points_by_name[point.name] = point
        return points_by_name

    def names(self) -> tuple[str, ...]:
        """Known names in the order of the table, then those of other packages by name."""
        return (*self.entries, *self.added)

    def package(self, name: str) -> str:
        """Installed package that a known name comes from."""
        return OURS if name in self.entries else _package(self.added[name])

    def check(self, name: str) -> None:
        """Raise `NotBuilt` for a reserved name and `UnknownName` for an unknown one."""
        if name in self.reserved:
            raise NotBuilt(
                f"The {self.kind} {name!r} is reserved but not built yet. {self.reserved[name]}"
            )
        if name not in self.names():
            raise UnknownName(unknown(self.kind, name, self.names()))

    def load(self, name: str) -> Any:
        """Import the object behind `name`.

        Raises `NotBuilt` for a reserved name, and `UnknownName` for an unknown one or one of
        another package that cannot be used.
        """
        self.check(name)
        return _attribute(self.entries[name]) if name in self.entries else self._foreign(name)

    def _foreign(self, name: str) -> Any:
        point, base = self.added[name], _attribute(self.base)
        try:
            loaded = point.load()
        except Exception as error:  # importing runs foreign code, which may raise anything
            reason = f"does not ({type(error).__name__}: {error})"
            raise UnknownName(self._broken(point, "load", reason)) from error
        if not isinstance(loaded, type) or not issubclass(loaded, base):
            raise UnknownName(self._broken(point, f"be a subclass of {base.__name__}", "is not"))
        if missing := ", ".join(sorted(getattr(loaded, "__abstractmethods__", ()))):
            raise UnknownName(self._broken(point, "be complete", f"lacks {missing}"))
        return loaded

    def _broken(self, point: EntryPoint, rule: str, reason: str) -> str:
        return (
            f"The {self.kind} {point.name!r} of the package {_package(point)} must {rule}, "
            f"{point.value} {reason}. Fix or uninstall that package."
        )


def _attribute(entry: str) -> Any:
    module, attribute = entry.split(":")
    return getattr(import_module(module), attribute)


def _package(point: EntryPoint) -> str:
    return (point.dist.name if point.dist else "") or "(unnamed)"
