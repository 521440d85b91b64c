"""`autotune units`."""

from __future__ import annotations

from typing import Annotated, Any

from autotune.cli.common import AsJson, app, show_json
from autotune.cli.options import setting_option


@app.command()
def units(
    backbone: Annotated[str, setting_option("backbone")] = "builtin:digits",
    budget: Annotated[str, setting_option("budget")] = "1%",
    space: Annotated[str | None, setting_option("space")] = None,
    granularity: Annotated[str, setting_option("granularity")] = "block",
    head: Annotated[str | None, setting_option("head")] = None,
    input: Annotated[str | None, setting_option("input")] = None,
    exclude: Annotated[str | None, setting_option("exclude")] = None,
    unfreeze: Annotated[bool, setting_option("unfreeze")] = False,
    as_json: AsJson = False,
) -> None:
    """List the units of a backbone, the choices and costs of each, and what is left out.

    Example: autotune units --backbone torchvision:resnet50 --budget 1%
    """
    from autotune.cli.live_progress import warned
    from autotune.cli.terminal import print_sections
    from autotune.run.report.dry_run import units_sections
    from autotune.run.settings import read_settings
    from autotune.session.preview import preview_units

    values: dict[str, Any] = {"backbone": backbone, "budget": budget, "granularity": granularity}
    values |= {"space": space, "head": head, "input": input}
    settings = read_settings({**values, "exclude": exclude, "unfreeze": unfreeze})
    with warned():
        units = preview_units(settings)
    show_json(units.to_json()) if as_json else print_sections(units_sections(units))
