"""`autotune config`: settings of a search, and where each was set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autotune.cli.common import AsJson, app, show, show_json
from autotune.cli.completion import runs
from autotune.run.reading import reading

if TYPE_CHECKING:
    from autotune.run.settings import Settings

MAX_ALIGNED = 40
"""Longest setting, in characters, that still widens the column before the origins.

The origins are aligned; a long mapping or path does not push all of them to the right.
"""


@app.command()
def config(
    source: Annotated[
        str,
        typer.Argument(
            metavar="RUN|FILE", help="Run folder or YAML configuration.", autocompletion=runs
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Show every setting of a run or configuration file, and where it was set, as YAML.

    Origins: default, strategy default, file, -o, option, call (from Python), resume, or the run.

    Example: autotune config runs/digits
    """
    from autotune.run.origins import tell_origins
    from autotune.run.settings import write_line

    with reading(source):
        settings, chosen = _read(source)
    origins, values = tell_origins(settings, chosen), settings.model_dump()
    if as_json:
        show_json({name: {"value": v, "from": origins[name]} for name, v in values.items()})
        return
    lines = {name: write_line(name, value) for name, value in values.items()}
    width = max(len(line) for line in lines.values() if len(line) <= MAX_ALIGNED)
    for name, line in lines.items():
        show(f"{line:{width}}  # {origins[name]}")


def _read(source: str) -> tuple[Settings, dict[str, str]]:
    """Return the settings, and the origin of each one that was set explicitly."""
    from autotune.run.origins import GivenSettings
    from autotune.run.settings import read_settings
    from autotune.study.run_folder import RunFolder

    if Path(source).is_file() or Path(source).suffix in (".yaml", ".yml"):
        chosen = GivenSettings.in_file(source)
        return read_settings(chosen.values), dict(chosen.origins)
    folder = RunFolder.existing(source)
    return read_settings({}, file=str(folder.config)), folder.origins
