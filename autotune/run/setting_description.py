"""Descriptions of settings, stored on the fields of `Settings`, for help, comments and pages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from pydantic import BaseModel, Field


class Panel(Enum):
    """Groups of settings, in the order in which they are shown."""

    TUNED = "Network, data and budget"
    TRAINED = "Search and training"
    PLACED = "Execution and output"


@dataclass(frozen=True)
class SettingDescription:
    """Description of a setting in help texts, configuration comments and pages."""

    name: str
    panel: Panel
    text: str
    """One or two sentences."""

    kind: str
    """JSON type of the value: string, integer, number, boolean or object."""

    default: Any
    metavar: str = ""
    """Placeholder of the value in help texts; empty for a flag."""

    values: tuple[str, ...] = ()
    """All valid values of a setting that takes a name."""

    bounds: str = ""
    """Range of a number, such as `from 1`."""

    is_movable: bool = False
    """Whether a resumed search may change it, because it only affects where trials run."""

    @classmethod
    def of(cls, name: str, schema: Mapping[str, Any]) -> SettingDescription:
        """Read the description from a field's JSON schema."""
        kind = next((k for k in schema.get("anyOf", ()) if k["type"] != "null"), schema)
        values = tuple(kind.get("enum") or schema["values"])
        return cls(
            name=name,
            panel=Panel(schema["panel"]),
            text=schema["description"].replace("{values}", _either(values)),
            kind=kind["type"],
            default=schema["default"],
            metavar=schema["metavar"] or _metavar(kind["type"], values),
            values=values,
            bounds=_bounds(kind),
            is_movable=schema["is_movable"],
        )


def setting(
    panel: Panel,
    default: Any,
    text: str,
    *,
    metavar: str = "",
    values: Iterable[str] = (),
    is_movable: bool = False,
) -> Any:
    """Return a field of `Settings` with its description.

    `{values}` in `text` is replaced by the valid values. Fields of type `Literal` need no `values`,
    and only free text needs a `metavar`.
    """
    shown = {"panel": panel.value, "metavar": metavar, "values": list(values)}
    extra: Any = {**shown, "is_movable": is_movable}
    return Field(default, description=text, json_schema_extra=extra)


def describe(settings: type[BaseModel]) -> dict[str, SettingDescription]:
    """Setting → description, in the order in which settings are shown."""
    properties = settings.model_json_schema()["properties"]
    return {name: SettingDescription.of(name, schema) for name, schema in properties.items()}


def _either(values: tuple[str, ...]) -> str:
    return " or ".join(filter(None, (", ".join(values[:-1]), *values[-1:])))


def _metavar(kind: str, values: tuple[str, ...]) -> str:
    if values:
        return "NAME"
    return "N" if kind in ("integer", "number") else ""


def _bounds(kind: Mapping[str, Any]) -> str:
    if kind["type"] not in ("integer", "number"):
        return ""
    return f"from {kind['minimum']:g}" if "minimum" in kind else "above 0"
