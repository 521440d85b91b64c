"""`autotune profile`."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from autotune.cli.common import AsJson, app, show_json
from autotune.cli.search import Quiet, What


@app.command()
def profile(
    backbone: What = None,
    task: What = None,
    choices: Annotated[
        str, typer.Option(help="Choices or methods with commas between; empty for all.")
    ] = "",
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each unit.")] = 3,
    weights: Annotated[str | None, typer.Option(help="As for search.")] = None,
    head: Annotated[str | None, typer.Option(help="As for search.")] = None,
    input: Annotated[str | None, typer.Option(help="As for search.")] = None,
    space: Annotated[str | None, typer.Option(help="As for search.")] = None,
    granularity: Annotated[str | None, typer.Option(help="block or layer.")] = None,
    budget: Annotated[str, typer.Option(help="Of each unit alone.")] = "100%",
    bnstats: Annotated[str | None, typer.Option(help="auto, on or off.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of a training.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Examples a step.")] = None,
    metric: Annotated[str | None, typer.Option(help="What is maximised.")] = None,
    folds: Annotated[int | None, typer.Option(help="Score by so many folds.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of splits and training.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes on this machine.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda …")] = None,
    out: Annotated[str | None, typer.Option(metavar="DIR", help="A new run folder.")] = None,
    config: Annotated[str | None, typer.Option(metavar="FILE", help="YAML of settings.")] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Tune each unit alone: which one pays, and by which method.

    Writes profile.json and profile.html into the run folder, which `search --profile` takes.

    Example: autotune profile --task builtin:digits-rotated --choices lowrank-2 --seeds 3
    """
    from autotune.cli.live import watching
    from autotune.config import read_settings

    given = {name: v for name, v in locals().items() if name in _SETTINGS and v is not None}
    given |= {"strategy": "profile", "options": {"choices": choices, "seeds": seeds}}
    settings = read_settings({**given, "references": False}, file=config)
    with watching(settings.most_trials, quiet=quiet or as_json):
        from autotune.api import search as run_search

        values = settings.model_dump()
        study = run_search(
            values.pop("backbone"), values.pop("task"), values.pop("budget"), **values
        )
    _show(study, as_json)


_SETTINGS = (
    "backbone task weights head input space granularity budget bnstats epochs batch_size metric "
    "folds seed workers device out"
).split()


def _show(study: Any, as_json: bool) -> None:
    from autotune.cli.tables import print_profile
    from autotune.files import write_whole
    from autotune.pictures import draw_profile

    rows, folder = study.profile, study.folder.path
    found = {"run": str(folder), "rows": [row.to_json() for row in rows]}
    write_whole(folder / "profile.json", json.dumps(found, indent=2) + "\n")
    draw_profile(rows, folder / "profile.html", study.settings.metric)
    show_json(found) if as_json else print_profile(rows, folder)
