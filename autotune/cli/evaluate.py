"""`autotune evaluate`."""

from __future__ import annotations

from typing import Annotated

import typer

from autotune.cli.common import (
    AsJson,
    NamedBackbone,
    NamedHeadFactory,
    NamedStorage,
    NamedTask,
    Run,
    app,
    show,
    show_json,
)
from autotune.cli.completion import PARTS, among
from autotune.cli.options import setting_option


@app.command()
def evaluate(
    run: Run,
    part: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Split to evaluate on: test, val or train.",
            autocompletion=among(PARTS),
        ),
    ] = "test",
    device: Annotated[str, setting_option("device")] = "auto",
    backbone: NamedBackbone = None,
    task: NamedTask = None,
    head_factory: NamedHeadFactory = None,
    storage: NamedStorage = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate the best delta of a run on a freshly loaded backbone.

    Example: autotune evaluate runs/digits --json
    """
    from autotune.cli.live_progress import in_lines
    from autotune.deploy.predict import evaluate_run

    with in_lines():
        metrics = evaluate_run(
            run,
            part=part,
            device=device,
            backbone=backbone,
            task=task,
            head_factory=head_factory,
            storage=storage,
        )
    if as_json:
        show_json(metrics)
        return
    for name, value in metrics.items():
        show(f"{name}: {value}")
