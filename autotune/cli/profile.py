"""`autotune profile`."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from autotune.cli.common import AsJson, app, show_json
from autotune.cli.completion import methods
from autotune.cli.options import NAMES, setting
from autotune.cli.search import Quiet


@app.command()
def profile(
    context: typer.Context,
    backbone: Annotated[str | None, setting("backbone", panel=False)] = None,
    task: Annotated[str | None, setting("task", panel=False)] = None,
    choices: Annotated[
        str,
        typer.Option(
            metavar="CHOICES",
            help="Choices or methods with commas between; empty for all.",
            autocompletion=methods,
        ),
    ] = "",
    seeds: Annotated[int, typer.Option(min=1, metavar="N", help="Trainings of each unit.")] = 3,
    weights: Annotated[str | None, setting("weights", panel=False)] = None,
    head: Annotated[str | None, setting("head", panel=False)] = None,
    input: Annotated[str | None, setting("input", panel=False)] = None,
    space: Annotated[str | None, setting("space", panel=False)] = None,
    granularity: Annotated[str | None, setting("granularity", panel=False)] = None,
    budget: Annotated[str, typer.Option(metavar="LIMIT", help="Of each unit alone.")] = "100%",
    bnstats: Annotated[str | None, setting("bnstats", panel=False)] = None,
    epochs: Annotated[int | None, setting("epochs", panel=False)] = None,
    batch_size: Annotated[int | None, setting("batch_size", panel=False)] = None,
    metric: Annotated[str | None, setting("metric", panel=False)] = None,
    folds: Annotated[int | None, setting("folds", panel=False)] = None,
    seed: Annotated[int | None, setting("seed", panel=False)] = None,
    workers: Annotated[int | None, setting("workers", panel=False)] = None,
    device: Annotated[str | None, setting("device", panel=False)] = None,
    out: Annotated[str | None, setting("out", panel=False)] = None,
    config: Annotated[str | None, typer.Option(metavar="FILE", help="YAML of settings.")] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Tune each unit alone: which one pays, and by which method.

    Writes profile.json and profile.html into the run folder, which `search --profile` takes.

    Example: autotune profile --task builtin:digits-rotated --choices lowrank-2 --seeds 3
    """
    from autotune.cli.live_progress import watching
    from autotune.run.origins import OPTION, GivenSettings
    from autotune.run.settings import read_settings

    named = {name: v for name, v in context.params.items() if name in NAMES and v is not None}
    own = {"strategy": "profile", "options": {"choices": choices, "seeds": seeds}}
    given = GivenSettings.in_file(config).over(OPTION, {**named, **own, "references": False})
    settings = read_settings(given.values)
    with watching(quiet=quiet or as_json):
        from autotune.session.api import search as run_search

        values = settings.model_dump()
        study = run_search(
            values.pop("backbone"),
            values.pop("task"),
            values.pop("budget"),
            origins=given.origins,
            **values,
        )
    _show(study, as_json)


def _show(study: Any, as_json: bool) -> None:
    from autotune.cli.terminal import print_sections
    from autotune.run.report.page import to_html
    from autotune.run.report.profile import measured
    from autotune.run.report.section import Report
    from autotune.utils.files import write_whole

    rows, folder = study.profile, study.folder.path
    found = {"run": str(folder), "rows": [row.to_json() for row in rows]}
    write_whole(folder / "profile.json", json.dumps(found, indent=2) + "\n")
    section = measured(study)
    page = Report(f"Each unit of {study.settings.backbone} alone", (section,))
    write_whole(folder / "profile.html", to_html(page))
    if as_json:
        show_json(found)
        return
    print_sections([section])
    typer.echo(f"The same with an image is in {folder / 'profile.html'}")
