"""`autotune list`."""

from __future__ import annotations

from typing import Annotated

import typer

from autotune.cli.common import AsJson, app, show, show_json
from autotune.cli.completion import KINDS, among


@app.command("list")
def list_names(
    kind: Annotated[
        str | None,
        typer.Argument(
            help="Kind to list: backbones, tasks, methods, strategies, pruners, spaces, metrics or "
            "formats. Default: all.",
            autocompletion=among(KINDS),
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the names that search accepts; for methods, also what they do.

    Example: autotune list methods
    """
    from autotune.cli.listings import methods_to_json, print_methods
    from autotune.cli.live_progress import warned
    from autotune.errors import UnknownName, unknown

    with warned():
        if kind == "methods":
            methods = methods_to_json()
            show_json(methods) if as_json else print_methods(methods)
            return
        tables = _names()
    if kind is not None and kind not in tables:
        raise UnknownName(unknown("list", kind, tables))
    chosen = tables if kind is None else {kind: tables[kind]}
    if as_json:
        show_json(chosen)
        return
    for name, names in chosen.items():
        show(f"{name}: {', '.join(names)}")


def _names() -> dict[str, list[str]]:
    from autotune.backbones import SOURCES as BACKBONES
    from autotune.deltas import METHODS
    from autotune.deploy.export import FORMATS
    from autotune.run.settings import space_names
    from autotune.study.pruners import PRUNERS
    from autotune.study.strategies import STRATEGIES
    from autotune.tasks import SOURCES as TASKS

    shifts = ["", "-inverted", "-noise", "-contrast", "-rotated", "-plain"]
    return {
        "backbones": ["builtin:digits", *(f"{s}:…" for s in BACKBONES.names() if s != "builtin")],
        "tasks": [
            *(f"builtin:digits{shift}" for shift in shifts),
            *(f"{s}:…" for s in TASKS.names() if s != "builtin"),
        ],
        "methods": list(METHODS.names()),
        "strategies": list(STRATEGIES.names()),
        "pruners": list(PRUNERS.names()),
        "spaces": list(space_names()),
        "metrics": ["accuracy", "balanced_accuracy", "f1", "auroc"],
        "formats": list(FORMATS.names()),
    }
