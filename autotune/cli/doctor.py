"""`autotune doctor`."""

from __future__ import annotations

from typing import Any

import typer

from autotune.cli.common import AsJson, app, show, show_json


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check the installation: versions, devices, whether torchvision fits torch and Ray starts.

    Example: autotune doctor
    """
    from autotune.cli.installed import examine

    facts: dict[str, Any] = examine()
    if as_json:
        show_json(facts)
    else:
        for name, value in facts.items():
            show(f"{name}: {value}")
    if not facts["healthy"]:
        raise typer.Exit(1)
