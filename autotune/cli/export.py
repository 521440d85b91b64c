"""`autotune export`."""

from __future__ import annotations

from typing import Annotated

import typer

from autotune.cli.common import (
    AsJson,
    NamedBackbone,
    NamedHeadFactory,
    NamedStorage,
    NamedTask,
    app,
    show,
    show_json,
)
from autotune.cli.completion import formats, runs
from autotune.cli.options import setting_option


@app.command()
def export(
    path: Annotated[
        str,
        typer.Argument(metavar="RUN|DELTA", help="Run folder or delta file.", autocompletion=runs),
    ],
    format: Annotated[
        str,
        typer.Option(
            help="Format: mask, delta, merged, module, onnx or peft.",
            metavar="FORMAT",
            autocompletion=formats,
        ),
    ] = "mask",
    output: Annotated[
        str | None,
        typer.Option("-o", "--output", metavar="FILE", help="File to write; a folder for peft."),
    ] = None,
    tensors: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="With --format mask: also write one boolean tensor per parameter to this "
            ".safetensors file.",
        ),
    ] = None,
    trial: Annotated[
        int | None,
        typer.Option(metavar="N", help="Number of the trial to export. Default: the best."),
    ] = None,
    within: Annotated[
        str | None,
        typer.Option(metavar="LIMIT", help="Export the best trial that fits this smaller budget."),
    ] = None,
    retrain: Annotated[
        bool,
        typer.Option("--retrain", metavar="", help="Retrain the trial if its delta was not kept."),
    ] = False,
    backbone: NamedBackbone = None,
    task: NamedTask = None,
    weights: Annotated[str | None, setting_option("weights")] = None,
    head: Annotated[str | None, setting_option("head")] = None,
    head_factory: NamedHeadFactory = None,
    storage: NamedStorage = None,
    as_json: AsJson = False,
) -> None:
    """Export the result of a run, or a delta, to a file, and verify it before it is put in place.

    Example: autotune export runs/digits --format merged -o tuned.safetensors
    """
    from dataclasses import asdict

    from autotune.cli.live_progress import warned
    from autotune.deploy.export.writing import export_model

    with warned():
        done = export_model(
            path,
            format,
            output,
            tensors=tensors,
            trial=trial,
            within=within,
            retrain=retrain,
            backbone=backbone,
            task=task,
            weights=weights,
            head=head,
            head_factory=head_factory,
            storage=storage,
        )
    if as_json:
        show_json(asdict(done))
        return
    check = "" if done.difference is None else f"; outputs differ by {done.difference:.1g} at most"
    show(f"Wrote {done.format} to {done.path}{check}.")
