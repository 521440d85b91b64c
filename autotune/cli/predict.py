"""`autotune predict`."""

from __future__ import annotations

from typing import Annotated

import typer

from autotune.cli.common import AsJson, NamedBackbone, Run, app, show_json
from autotune.cli.options import setting_option


@app.command()
def predict(
    run: Run,
    path: Annotated[str, typer.Argument(help="A picture, a folder of them, or an .npy array.")],
    device: Annotated[str, setting_option("device")] = "auto",
    backbone: NamedBackbone = None,
    as_json: AsJson = False,
) -> None:
    """The class of pictures or arrays by the tuned network, with its probability.

    Example: autotune predict runs/flowers rose.jpg
    """
    from autotune.deploy.predict import predict_path

    predictions = predict_path(run, path, device=device, backbone=backbone)
    if as_json:
        show_json(predictions)
        return
    for one in predictions:
        typer.echo(f"{one['input']}: {one['class']} ({one['probability']:.3f})")
