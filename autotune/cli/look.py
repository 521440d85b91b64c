"""`autotune status`, `units`, `inspect`, `list` and `doctor`: looking, nothing is changed."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from autotune.cli.common import AsJson, Run, app, show_json
from autotune.cli.completion import KINDS, among
from autotune.cli.options import setting


@app.command()
def status(
    run: Run,
    watch: Annotated[
        bool,
        typer.Option("--watch", metavar="", help="Look on while another process searches."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Where a search stands, also while it runs.

    Example: autotune status runs/digits --watch
    """
    from autotune.cli.tables import print_status
    from autotune.run.notebook import Study

    if watch:
        _watch(run)
    found = Study(run).status()
    show_json(found) if as_json else print_status(found)


def _watch(run: str) -> None:
    """Until it ends or stops; Ctrl-C ends the looking alone."""
    from autotune.cli.live import follow
    from autotune.run.notebook import Study

    with suppress(KeyboardInterrupt):
        while Path(run).is_dir() and not (Path(run) / "config.yaml").exists():
            time.sleep(0.5)  # a search that has just begun
        follow(Study(run).folder.path, lambda: Study(run).state == "running")


@app.command()
def units(
    backbone: Annotated[str, setting("backbone", panel=False)] = "builtin:digits",
    budget: Annotated[str, setting("budget", panel=False)] = "1%",
    space: Annotated[str | None, setting("space", panel=False)] = None,
    granularity: Annotated[str, setting("granularity", panel=False)] = "block",
    head: Annotated[str | None, setting("head", panel=False)] = None,
    as_json: AsJson = False,
) -> None:
    """The units of a backbone, what each may take at which cost, and what the patterns matched.

    Example: autotune units --backbone torchvision:resnet50 --budget 1%
    """
    from autotune.cli.listings import print_units
    from autotune.cli.live import warned
    from autotune.run.settings import read_settings
    from autotune.session.preview import units_to_json

    given = {"backbone": backbone, "budget": budget, "granularity": granularity}
    settings = read_settings({**given, "space": space, "head": head})
    with warned():
        found = units_to_json(settings)
    show_json(found) if as_json else print_units(found)


@app.command()
def inspect(
    file: Annotated[str, typer.Argument(help="A delta, an export or a run folder.")],
    as_json: AsJson = False,
) -> None:
    """What a delta or an export says of itself; nothing of it is executed, no backbone loaded.

    Example: autotune inspect runs/digits/best/delta.safetensors
    """
    from autotune.deploy.inspection import inspect_file

    found = inspect_file(file)
    if as_json:
        show_json(found)
        return
    for key, value in found.items():
        if key in ("tensors", "units") and isinstance(value, dict):
            typer.echo(f"{key}:")
            for name, own in value.items():
                typer.echo(f"  {name}: {own}")
        elif isinstance(value, dict):
            for name, own in value.items():
                typer.echo(f"{key} {name}: {own}")
        else:
            typer.echo(f"{key}: {value}")


@app.command("list")
def list_names(
    kind: Annotated[
        str | None,
        typer.Argument(
            help="backbones, tasks, methods, strategies, pruners, spaces, metrics, formats; all if "
            "left out.",
            autocompletion=among(KINDS),
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Names that can be given to search; of methods also what they do.

    Example: autotune list methods
    """
    from autotune.cli.listings import methods_to_json, print_methods
    from autotune.cli.live import warned
    from autotune.errors import UnknownName, unknown

    with warned():
        if kind == "methods":
            found = methods_to_json()
            show_json(found) if as_json else print_methods(found)
            return
        tables = _names()
    if kind is not None and kind not in tables:
        raise UnknownName(unknown("list", kind, tables))
    chosen = tables if kind is None else {kind: tables[kind]}
    if as_json:
        show_json(chosen)
        return
    for name, names in chosen.items():
        typer.echo(f"{name}: {', '.join(names)}")


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


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """What is installed, which devices there are, whether torchvision fits torch and Ray starts.

    Example: autotune doctor
    """
    from autotune.cli.environment import examine

    found: dict[str, Any] = examine()
    if as_json:
        show_json(found)
    else:
        for name, value in found.items():
            typer.echo(f"{name}: {value}")
    if not found["healthy"]:
        raise typer.Exit(1)
