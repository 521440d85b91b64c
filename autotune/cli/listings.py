"""Table of methods for `autotune list methods` and the documentation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.text import Text

from autotune.cli.console import console
from autotune.cli.terminal import rendered
from autotune.errors import UnknownName
from autotune.utils.registry import OURS
from autotune.utils.table import Table

if TYPE_CHECKING:
    from autotune.utils.registry import Registry

METHOD_COLUMNS = {
    "name": "method",
    "what": "what trains",
    "mergeable": "merges",
    "inference": "extra when used",
    "where": "where",
    "paper": "paper",
}


def methods_to_json() -> list[dict[str, Any]]:
    """Return each method's description and package, and the error if it cannot be imported."""
    from autotune.deltas import METHODS

    return [_method(name, METHODS) for name in METHODS.names()]


def _method(name: str, methods: Registry) -> dict[str, Any]:
    keys = list(METHOD_COLUMNS)[1:]
    row = {"name": name, **dict.fromkeys(keys), "package": methods.package(name), "error": None}
    try:
        delta = methods.load(name)
    except UnknownName as error:
        return {**row, "error": str(error)}
    return {**row, **{key: getattr(delta, key) for key in keys}}


def print_methods(methods: list[dict[str, Any]]) -> None:
    """Print the table of methods, and below it the origin or the error of each plugin."""
    out = console()
    rows = [method_cells(row) for row in methods if not row["error"]]
    out.print(rendered(Table.of(list(METHOD_COLUMNS.values()), rows), out.width))
    for row in methods:
        if row["error"] or row["package"] != OURS:
            origin = f"{row['name']} comes from the package {row['package']}."
            out.print(Text("\n" + (row["error"] or origin)), soft_wrap=True)


def method_cells(row: dict[str, Any]) -> list[str]:
    """Return the cells of one method, in the order of `METHOD_COLUMNS`."""
    shown = {True: "yes", False: "no"}
    return [shown.get(row[key], row[key]) for key in METHOD_COLUMNS]
