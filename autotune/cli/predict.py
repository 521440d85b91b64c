"""`autotune predict`."""

from __future__ import annotations

from typing import Annotated

import typer

from autotune.cli.common import (
    AsJson,
    NamedBackbone,
    NamedHeadFactory,
    NamedStorage,
    Run,
    app,
    show,
    show_json,
)
from autotune.cli.options import setting_option


@app.command()
def predict(
    run: Run,
    path: Annotated[str, typer.Argument(help="Image, folder of images, or .npy array.")],
    device: Annotated[str, setting_option("device")] = "auto",
    backbone: NamedBackbone = None,
    head_factory: NamedHeadFactory = None,
    skip_bad: Annotated[bool, setting_option("skip_bad")] = False,
    storage: NamedStorage = None,
    as_json: AsJson = False,
) -> None:
    """Predict the class of images or arrays with the tuned network, and its probability.

    Example: autotune predict runs/flowers rose.jpg
    """
    from autotune.cli.live_progress import in_lines
    from autotune.deploy.predict import predict_path

    with in_lines():
        predictions = predict_path(
            run,
            path,
            device=device,
            backbone=backbone,
            head_factory=head_factory,
            skip_bad=skip_bad,
            storage=storage,
        )
    if as_json:
        show_json(predictions)
        return
    for row in predictions:
        show(f"{row['input']}: {row['class']} ({row['probability']:.3f})")
