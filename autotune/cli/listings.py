"""Tables of what there is: units and their choices, methods, what a search would do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from autotune.cli.console import console
from autotune.errors import UnknownName
from autotune.run.report.wording import shown
from autotune.utils.registry import OURS

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


def print_units(found: dict[str, Any]) -> None:
    """The table of units with their choices, and the match table."""
    out, budget = console(), found["budget"]
    unit = budget["measure"]
    out.print(
        f"{found['backbone']}: {found['total']:,} parameters without its head. Budget "
        f"{budget['text']} = {budget['limit']:,} {unit}. "
        f"Space: {found['space']}, {found['granularity']}s."
    )
    table = Table("unit", "parameters", f"choices that fit, with their {unit}", "too large")
    table.columns[1].justify = "right"
    for row in found["units"]:
        fits, large = (
            ", ".join(_shortened([c for c in row["choices"] if c["fits"] == fitting], unit))
            for fitting in (True, False)
        )
        table.add_row(row["name"], f"{row['parameters']:,}", fits, large)
    out.print(table)
    matches = Table("pattern", "expression", "units", "modules", "parameters", title="What matched")
    for m in found["matches"]:
        numbers = (f"{m[key]:,}" for key in ("units", "modules", "parameters"))
        matches.add_row(m["pattern"], m["expression"].replace("[", "\\["), *numbers)
    out.print(matches)


def _shortened(choices: list[dict[str, Any]], unit: str) -> Iterator[str]:
    """Labels with their costs; those that differ in their last number alone as one range."""
    kin: dict[str, list[dict[str, Any]]] = {}
    for choice in choices:
        kin.setdefault(_LAST_NUMBER.sub("#", choice["label"]), []).append(choice)
    for pattern, found in kin.items():
        found.sort(key=lambda choice: choice[unit])
        numbers = [_LAST_NUMBER.findall(c["label"])[0] for c in found if "#" in pattern]
        label = pattern.replace("#", "/".join(numbers))
        costs = [f"{found[i][unit]:,}" for i in ([0] if len(found) == 1 else [0, -1])]
        yield f"{label} {'…'.join(costs)}"


_LAST_NUMBER = re.compile(r"\d+(?=\D*$)")


def methods_to_json() -> list[dict[str, Any]]:
    """Every method with what it says of itself, its package, and the error if it is broken."""
    from autotune.deltas import METHODS

    return [_method(name, METHODS) for name in METHODS.names()]


def _method(name: str, methods: Registry) -> dict[str, Any]:
    told = list(METHOD_COLUMNS)[1:]
    row = {"name": name, **dict.fromkeys(told), "package": methods.package(name), "error": None}
    try:
        delta = methods.load(name)
    except UnknownName as error:
        return {**row, "error": str(error)}
    return {**row, **{key: getattr(delta, key) for key in told}}


def print_methods(found: list[dict[str, Any]]) -> None:
    """The table of methods; below it, what comes from other packages and what is broken there."""
    out = console()
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), leading=1)
    for title in METHOD_COLUMNS.values():
        table.add_column(title, overflow="fold")
    for row in found:
        if not row["error"]:
            table.add_row(*map(Text, method_cells(row)))
    out.print(table)
    for row in found:
        if row["error"] or row["package"] != OURS:
            origin = f"{row['name']} comes from the package {row['package']}."
            out.print("\n" + (row["error"] or origin), markup=False, soft_wrap=True)


def method_cells(row: dict[str, Any]) -> list[str]:
    """What a table of methods shows of one, in the order of its columns."""
    shown = {True: "yes", False: "no"}
    return [shown.get(row[key], row[key]) for key in METHOD_COLUMNS]


def print_plan_of_search(found: dict[str, Any]) -> None:
    """The dry run."""
    out, task = console(), found["task"]
    print_units(found)
    out.print(
        f"{task['source']}: {task['classes']} classes, {task['train']} training, {task['val']} "
        f"validation and {task['test']} test examples."
    )
    for name, reference in found["references"].items():
        out.print(
            f"Reference {shown(name)}: {reference['parameters']:,} parameters, {reference['plan']}",
            markup=False,
            soft_wrap=True,
        )
    most = found["at_most_seconds"]
    search = (
        "the search ends by itself"
        if most is None
        else (f"the search at most about {most:.0f} s, less what pruning saves")
    )
    out.print(
        f"One full fine-tuning takes about {found['full_finetuning_seconds']:.0f} s here; {search}."
        f" Memory so far: {found['memory_bytes'] / 2**20:.0f} MiB. Nothing was written."
    )
