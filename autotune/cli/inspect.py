"""`autotune inspect`."""

from __future__ import annotations

from typing import Annotated

import typer

from autotune.cli.common import AsJson, app, show, show_json
from autotune.run.reading import reading


@app.command()
def inspect(
    file: Annotated[str, typer.Argument(help="Delta file, export or run folder.")],
    as_json: AsJson = False,
) -> None:
    """Show the metadata of a delta or export, without executing it or loading a backbone.

    Example: autotune inspect runs/digits/best/delta.safetensors
    """
    from autotune.deploy.inspection import inspect_file

    with reading(file):
        contents = inspect_file(file)
    if as_json:
        show_json(contents)
        return
    for key, value in contents.items():
        if key in ("tensors", "units") and isinstance(value, dict):
            show(f"{key}:")
            for name, entry in value.items():
                show(f"  {name}: {entry}")
        elif isinstance(value, dict):
            for name, entry in value.items():
                show(f"{key} {name}: {entry}")
        else:
            show(f"{key}: {value}")
