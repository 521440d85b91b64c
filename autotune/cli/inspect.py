"""`autotune inspect`."""

from __future__ import annotations

from typing import Annotated

import typer

from autotune.cli.common import AsJson, app, show_json


@app.command()
def inspect(
    file: Annotated[str, typer.Argument(help="A delta, an export or a run folder.")],
    as_json: AsJson = False,
) -> None:
    """What a delta or an export says of itself; nothing of it is executed, no backbone loaded.

    Example: autotune inspect runs/digits/best/delta.safetensors
    """
    from autotune.deploy.inspection import inspect_file

    found = inspect_file(file)
    if as_json:
        show_json(found)
        return
    for key, value in found.items():
        if key in ("tensors", "units") and isinstance(value, dict):
            typer.echo(f"{key}:")
            for name, own in value.items():
                typer.echo(f"  {name}: {own}")
        elif isinstance(value, dict):
            for name, own in value.items():
                typer.echo(f"{key} {name}: {own}")
        else:
            typer.echo(f"{key}: {value}")
