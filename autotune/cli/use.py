"""`autotune evaluate`, `predict` and `export`: using what a search found."""

from __future__ import annotations

from typing import Annotated

import typer

from autotune.cli.common import AsJson, NamedBackbone, NamedTask, Run, app, show_json
from autotune.cli.completion import PARTS, among, formats, runs
from autotune.cli.options import setting


@app.command()
def evaluate(
    run: Run,
    part: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Of the data: test, val or train.", autocompletion=among(PARTS)
        ),
    ] = "test",
    device: Annotated[str, setting("device", panel=False)] = "auto",
    backbone: NamedBackbone = None,
    task: NamedTask = None,
    as_json: AsJson = False,
) -> None:
    """Metrics of the delta file in `best/`, on a freshly loaded backbone.

    Example: autotune evaluate runs/digits --json
    """
    from autotune.deploy.predict import evaluate_run

    found = evaluate_run(run, part=part, device=device, backbone=backbone, task=task)
    if as_json:
        show_json(found)
        return
    for name, value in found.items():
        typer.echo(f"{name}: {value}")


@app.command()
def predict(
    run: Run,
    path: Annotated[str, typer.Argument(help="A picture, a folder of them, or an .npy array.")],
    device: Annotated[str, setting("device", panel=False)] = "auto",
    backbone: NamedBackbone = None,
    as_json: AsJson = False,
) -> None:
    """The class of pictures or arrays by the tuned network, with its probability.

    Example: autotune predict runs/flowers rose.jpg
    """
    from autotune.deploy.predict import predict_path

    found = predict_path(run, path, device=device, backbone=backbone)
    if as_json:
        show_json(found)
        return
    for one in found:
        typer.echo(f"{one['input']}: {one['class']} ({one['probability']:.3f})")


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
    weights: Annotated[str | None, setting("weights", panel=False)] = None,
    head: Annotated[str | None, setting("head", panel=False)] = None,
    as_json: AsJson = False,
) -> None:
    """The answer as a file that others can read, checked before it is there.

    Example: autotune export runs/digits --format merged -o tuned.safetensors
    """
    from dataclasses import asdict

    from autotune.cli.live import warned
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


@app.command("import")
def import_(
    folder: Annotated[str, typer.Argument(help="The adapter's folder.")],
    backbone: Annotated[
        str, typer.Option(metavar="SOURCE", help="The network that it was trained on.")
    ],
    format: Annotated[
        str, typer.Option(metavar="FORMAT", help="peft, the only one so far.")
    ] = "peft",
    output: Annotated[
        str, typer.Option("-o", "--output", metavar="FILE", help="The delta file to write.")
    ] = "delta.safetensors",
    weights: Annotated[str | None, setting("weights", panel=False)] = None,
    head: Annotated[str | None, setting("head", panel=False)] = None,
    as_json: AsJson = False,
) -> None:
    """A LoRA adapter of PEFT as a delta file.

    Example: autotune import adapter --backbone torchvision:resnet50 -o delta.safetensors
    """
    from pathlib import Path

    from autotune.backbones import load_backbone
    from autotune.deltas.artifact import to_bytes
    from autotune.deploy.export.from_peft import import_peft
    from autotune.errors import ConfigError, unknown
    from autotune.utils.files import write_whole

    if format != "peft":
        raise ConfigError(unknown("format", format, ["peft"]))
    artifact = import_peft(folder, load_backbone(backbone, weights=weights, head=head))
    write_whole(Path(output), to_bytes(artifact))
    found = {"path": output, "plan": str(artifact.plan), "cost": artifact.header["cost"]}
    if as_json:
        show_json(found)
    else:
        typer.echo(f"{found['plan']} written to {output}.")
