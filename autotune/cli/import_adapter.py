"""`autotune import`."""

from __future__ import annotations

from typing import Annotated

import typer

from autotune.cli.common import AsJson, app, show, show_json
from autotune.cli.options import setting_option


@app.command("import")
def import_(
    folder: Annotated[str, typer.Argument(help="Folder of the adapter.")],
    backbone: Annotated[
        str, typer.Option(metavar="SOURCE", help="Network the adapter was trained on.")
    ],
    format: Annotated[
        str, typer.Option(metavar="FORMAT", help="Format of the adapter; only peft.")
    ] = "peft",
    output: Annotated[
        str, typer.Option("-o", "--output", metavar="FILE", help="Delta file to write.")
    ] = "delta.safetensors",
    weights: Annotated[str | None, setting_option("weights")] = None,
    head: Annotated[str | None, setting_option("head")] = None,
    as_json: AsJson = False,
) -> None:
    """Convert a PEFT LoRA adapter to a delta file.

    Example: autotune import adapter --backbone torchvision:resnet50 -o delta.safetensors
    """
    from pathlib import Path

    from autotune.backbones import load_backbone
    from autotune.deltas.artifact import to_bytes
    from autotune.deploy.export.from_peft import import_peft
    from autotune.errors import ConfigError, unknown
    from autotune.utils.files import write_whole
    from autotune.utils.new_path import require_writable

    if format != "peft":
        raise ConfigError(unknown("format", format, ["peft"]))
    artifact = import_peft(folder, load_backbone(backbone, weights=weights, head=head))
    require_writable(output, "The delta", "-o")
    write_whole(Path(output), to_bytes(artifact))
    imported = {"path": output, "plan": str(artifact.plan), "cost": artifact.header["cost"]}
    if as_json:
        show_json(imported)
    else:
        show(f"Wrote {imported['plan']} to {output}.")
