"""`autotune units`."""

from __future__ import annotations

from typing import Annotated

from autotune.cli.common import AsJson, app, show_json
from autotune.cli.options import setting_option


@app.command()
def units(
    backbone: Annotated[str, setting_option("backbone")] = "builtin:digits",
    budget: Annotated[str, setting_option("budget")] = "1%",
    space: Annotated[str | None, setting_option("space")] = None,
    granularity: Annotated[str, setting_option("granularity")] = "block",
    head: Annotated[str | None, setting_option("head")] = None,
    as_json: AsJson = False,
) -> None:
    """List the units of a backbone, the choices and costs of each, and what the patterns match.

    Example: autotune units --backbone torchvision:resnet50 --budget 1%
    """
    from autotune.cli.live_progress import warned
    from autotune.cli.terminal import print_sections
    from autotune.run.report.dry_run import units_sections
    from autotune.run.settings import read_settings
    from autotune.session.preview import preview_units

    values = {"backbone": backbone, "budget": budget, "granularity": granularity}
    settings = read_settings({**values, "space": space, "head": head})
    with warned():
        units = preview_units(settings)
    show_json(units.to_json()) if as_json else print_sections(units_sections(units))
