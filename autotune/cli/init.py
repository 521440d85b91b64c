"""`autotune init`: write a configuration to edit."""

from __future__ import annotations

import os
import shlex
from collections.abc import Collection, Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Annotated

import typer

from autotune.cli.common import AsJson, app, show, show_json
from autotune.cli.options import setting_option

if TYPE_CHECKING:
    from autotune.run.setting_description import SettingDescription
    from autotune.run.settings import Settings


@app.command()
def init(
    backbone: Annotated[str, setting_option("backbone")] = "builtin:digits",
    task: Annotated[str, setting_option("task")] = "builtin:digits",
    budget: Annotated[str, setting_option("budget")] = "1%",
    output: Annotated[
        str, typer.Option("-o", "--output", metavar="FILE", help="File to write.")
    ] = "autotune.yaml",
    force: Annotated[
        bool, typer.Option("--force", metavar="", help="Overwrite an existing file.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write a configuration file that documents every setting and has the defaults as comments.

    Example: autotune init --backbone torchvision:resnet18 --task imagefolder:flowers --budget 1%
    """
    from pathlib import Path

    from autotune.errors import ConfigError
    from autotune.run.settings import read_settings
    from autotune.utils.files import write_whole
    from autotune.utils.new_path import require_writable

    values = {"backbone": backbone, "task": task, "budget": budget}
    settings = read_settings(values)
    _check_kinds(settings)
    if os.path.exists(output) and not force:
        raise ConfigError(
            f"A configuration needs a new file, but {output!r} already exists. Name another with "
            "-o, or overwrite it with --force."
        )
    require_writable(output, "The configuration", "-o")
    try:
        write_whole(Path(output), "\n".join(_lines(settings, values)) + "\n")
    except OSError as error:
        raise ConfigError(
            f"The configuration cannot be written to {output!r} ({error.strerror}). "
            "Name another file with -o."
        ) from error
    message = f"Wrote {output}. Start with: autotune search --config {shlex.quote(output)}"
    show_json({"path": output}) if as_json else show(message)


def _check_kinds(settings: Settings) -> None:
    """Refuse unknown kinds of source. What a source names need not exist yet."""
    from autotune.backbones import SOURCES as BACKBONES
    from autotune.tasks import SOURCES as TASKS

    BACKBONES.check(settings.backbone.partition(":")[0])
    TASKS.check(settings.task.partition(":")[0])


def _lines(settings: Settings, active: Collection[str]) -> Iterator[str]:
    from autotune.run.settings import descriptions, write_line

    yield "# Settings for: autotune search --config FILE. Defaults are commented out."
    for panel, group in groupby(descriptions().values(), lambda setting: setting.panel):
        yield f"\n## {panel.value}"
        for setting in group:
            yield f"\n# {setting.text}{_takes(setting)}"
            line = write_line(setting.name, getattr(settings, setting.name))
            yield line if setting.name in active else f"# {line}"


def _takes(setting: SettingDescription) -> str:
    """Sentence with the values of a flag or number; other descriptions list their own."""
    takes = {
        "boolean": " True or false.",
        "integer": f" A whole number {setting.bounds}.",
        "number": f" A number {setting.bounds}.",
    }
    return takes.get(setting.kind, "")
