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
    """The units of a backbone, what each may take at which cost, and what the patterns matched.

    Example: autotune units --backbone torchvision:resnet50 --budget 1%
    """
    from autotune.cli.listings import print_units
    from autotune.cli.live_progress import warned
    from autotune.run.settings import read_settings
    from autotune.session.preview import units_to_json

    given = {"backbone": backbone, "budget": budget, "granularity": granularity}
    settings = read_settings({**given, "space": space, "head": head})
    with warned():
        found = units_to_json(settings)
    show_json(found) if as_json else print_units(found)
