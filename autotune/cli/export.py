"""`autotune export`."""

from __future__ import annotations

from typing import Annotated

import typer

from autotune.cli.common import AsJson, NamedBackbone, NamedTask, app, show_json
from autotune.cli.completion import formats, runs
from autotune.cli.options import setting_option


@app.command()
def export(
    path: Annotated[
        str,
        typer.Argument(
            metavar="RUN|DELTA", help="A run folder or delta file.", autocompletion=runs
        ),
    ],
    format: Annotated[
        str,
        typer.Option(
            help="mask, delta, merged, module, onnx or peft.",
            metavar="FORMAT",
            autocompletion=formats,
        ),
    ] = "mask",
    output: Annotated[
        str | None,
        typer.Option(
            "-o", "--output", metavar="FILE", help="The file to write; a folder for peft."
        ),
    ] = None,
    tensors: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="With a mask: also a .safetensors file, a boolean tensor a parameter.",
        ),
    ] = None,
    trial: Annotated[
        int | None,
        typer.Option(metavar="N", help="Of a run: a trial by its number, not the winner."),
    ] = None,
    within: Annotated[
        str | None,
        typer.Option(metavar="LIMIT", help="Of a run: the best trial that fits a smaller budget."),
    ] = None,
    retrain: Annotated[
        bool,
        typer.Option("--retrain", metavar="", help="Train a trial again whose delta was not kept."),
    ] = False,
    backbone: NamedBackbone = None,
    task: NamedTask = None,
    weights: Annotated[str | None, setting_option("weights")] = None,
    head: Annotated[str | None, setting_option("head")] = None,
    as_json: AsJson = False,
) -> None:
    """The answer as a file that others can read, checked before it is there.

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
        )
    if as_json:
        show_json(asdict(done))
        return
    how = "" if done.difference is None else f", outputs differ by {done.difference:.1g} at most"
    typer.echo(f"{done.format} written to {done.path}{how}.")
