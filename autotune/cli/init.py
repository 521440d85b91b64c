"""`autotune init`: a configuration to be edited."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Annotated

import typer

from autotune.cli.common import AsJson, app, show_json
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
        str, typer.Option("-o", "--output", metavar="FILE", help="The file to write.")
    ] = "autotune.yaml",
    force: Annotated[
        bool, typer.Option("--force", metavar="", help="Write over a file that exists.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write a configuration for search: every setting, what it does, its default as a comment.

    Example: autotune init --backbone torchvision:resnet18 --task imagefolder:flowers --budget 1%
    """
    from pathlib import Path

    from autotune.errors import ConfigError
    from autotune.run.settings import read_settings
    from autotune.utils.files import write_whole

    values = {"backbone": backbone, "task": task, "budget": budget}
    settings = read_settings(values)
    _check_kinds(settings)
    if Path(output).exists() and not force:
        raise ConfigError(
            f"A configuration is written to a new file, {output!r} exists. Name another with -o, "
            "or write over it with --force."
        )
    try:
        write_whole(Path(output), "\n".join(_lines(settings, values)) + "\n")
    except OSError as error:
        raise ConfigError(
            f"A configuration is written to a file, {output!r} cannot be ({error.strerror}). "
            "Name another with -o."
        ) from error
    message = f"Written to {output}; begin with: autotune search --config {output}"
    show_json({"path": output}) if as_json else typer.echo(message)


def _check_kinds(settings: Settings) -> None:
    """Whether there are such sources; what they name may come to be later."""
    from autotune.backbones import SOURCES as BACKBONES
    from autotune.tasks import SOURCES as TASKS

    BACKBONES.check(settings.backbone.partition(":")[0])
    TASKS.check(settings.task.partition(":")[0])


def _lines(settings: Settings, active: Collection[str]) -> Iterator[str]:
    from autotune.run.settings import descriptions, write_line

    yield "# A search: autotune search --config FILE. Defaults are comments."
    for panel, group in groupby(descriptions().values(), lambda setting: setting.panel):
        yield f"\n## {panel.value}"
        for setting in group:
            yield f"\n# {setting.text}{_takes(setting)}"
            line = write_line(setting.name, getattr(settings, setting.name))
            yield line if setting.name in active else f"# {line}"


def _takes(setting: SettingDescription) -> str:
    """Values of a flag or number; the description has those of a text."""
    takes = {
        "boolean": " True or false.",
        "integer": f" A whole number {setting.bounds}.",
        "number": f" A number {setting.bounds}.",
    }
    return takes.get(setting.kind, "")
