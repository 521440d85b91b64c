"""`autotune profile`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from autotune.cli.common import AsJson, app, show, show_json
from autotune.cli.completion import methods
from autotune.cli.options import SettingOptions, SettingValues, with_settings
from autotune.cli.search import Quiet

NETWORK = ("weights", "head", "head_factory", "input", "space", "granularity")
TRAINING = tuple("bnstats epochs batch_size metric folds seed workers device out".split())
"""Settings that a profile takes, as two groups of options."""


@app.command()
@with_settings
def profile(
    *,
    sources: Annotated[SettingValues, SettingOptions(("backbone", "task"), has_panels=False)],
    choices: Annotated[
        str,
        typer.Option(
            metavar="CHOICES",
            help="Comma-separated choices or methods. Default: all.",
            autocompletion=methods,
        ),
    ] = "",
    seeds: Annotated[int, typer.Option(min=1, metavar="N", help="Number of seeds per unit.")] = 3,
    network: Annotated[SettingValues, SettingOptions(NETWORK, has_panels=False)],
    budget: Annotated[str, typer.Option(metavar="LIMIT", help="Budget per unit.")] = "100%",
    training: Annotated[SettingValues, SettingOptions(TRAINING, has_panels=False)],
    config: Annotated[
        str | None, typer.Option(metavar="FILE", help="YAML file with these settings.")
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Tune each unit alone to measure which units and methods are worth their cost.

    Writes profile.json and profile.html to the run folder, which `search --profile` accepts.

    Example: autotune profile --task builtin:digits-rotated --choices lowrank-2 --seeds 3
    """
    from autotune.cli.live_progress import watching
    from autotune.run.origins import OPTION, GivenSettings
    from autotune.run.settings import read_settings

    named = {**sources, **network, "budget": budget, **training}
    strategy = {"strategy": "profile", "options": {"choices": choices, "seeds": seeds}}
    chosen = GivenSettings.in_file(config).over(OPTION, {**named, **strategy, "references": False})
    settings = read_settings(chosen.values)
    with watching(quiet=quiet or as_json):
        from autotune.session.api import search as run_search

        study = run_search(**settings.model_dump(), origins=chosen.origins)
    _show(study, as_json)


def _show(study: Any, as_json: bool) -> None:
    from autotune.cli.terminal import print_sections
    from autotune.run.report.page import to_html
    from autotune.run.report.profile import measured
    from autotune.run.report.section import Report
    from autotune.utils.files import write_whole
    from autotune.utils.json_text import to_json_text

    rows, folder = study.profile, study.folder.path
    result = {"run": str(folder), "rows": [row.to_json() for row in rows]}
    write_whole(folder / "profile.json", to_json_text(result) + "\n")
    section = measured(study)
    page = Report(f"Each unit of {study.settings.backbone} alone", (section,))
    write_whole(folder / "profile.html", to_html(page))
    if as_json:
        show_json(result)
        return
    print_sections([section])
    show(f"Wrote {folder / 'profile.html'}, which adds a figure.")
