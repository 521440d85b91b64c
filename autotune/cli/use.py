"""`autotune evaluate`, `predict` and `export`: using what a search found."""

from __future__ import annotations

from typing import Annotated

import typer

from autotune.cli.common import AsJson, app, show_json

Run = Annotated[str, typer.Argument(help="The run folder.")]


@app.command()
def evaluate(
    run: Run,
    part: Annotated[str, typer.Option(help="test, val or train.")] = "test",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, …")] = "auto",
    as_json: AsJson = False,
) -> None:
    """Metrics of the delta file in `best/`, on a freshly loaded backbone.

    Example: autotune evaluate runs/digits --json
    """
    from autotune.use import evaluate_run

    found = evaluate_run(run, part=part, device=device)
    if as_json:
        show_json(found)
        return
    for name, value in found.items():
        typer.echo(f"{name}: {value}")


@app.command()
def predict(
    run: Run,
    path: Annotated[str, typer.Argument(help="A picture, a folder of them, or an .npy array.")],
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, …")] = "auto",
    as_json: AsJson = False,
) -> None:
    """The class of pictures or arrays by the tuned network, with its probability.

    Example: autotune predict runs/flowers rose.jpg
    """
    from autotune.use import predict_path

    found = predict_path(run, path, device=device)
    if as_json:
        show_json(found)
        return
    for one in found:
        typer.echo(f"{one['input']}: {one['class']} ({one['probability']:.3f})")


@app.command()
def export(
    run: Run,
    format: Annotated[str, typer.Option(help="mask")] = "mask",
    output: Annotated[str, typer.Option("-o", "--output", help="The file to write.")] = "mask.json",
    tensors: Annotated[
        str | None, typer.Option(help="Also a .safetensors file with a boolean tensor a parameter.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """The chosen layers as a file that others can read.

    Example: autotune export runs/digits --format mask -o mask.json --tensors mask.safetensors
    """
    import json
    from pathlib import Path

    from autotune.api import Study
    from autotune.errors import ConfigError, NotBuilt
    from autotune.export import export_mask
    from autotune.files import write_whole

    if format != "mask":
        if format in ("delta", "merged", "module", "onnx", "peft"):
            raise NotBuilt(f"The format {format!r} is reserved but not built yet. Use mask.")
        raise ConfigError(f"A format must be mask, got {format!r}.")
    mask, content = export_mask(Study(run))
    write_whole(Path(output), json.dumps(mask, indent=2) + "\n")
    if tensors:
        write_whole(Path(tensors), content)
    chosen = sum(unit["selected"] for unit in mask["units"].values())
    if as_json:
        show_json(mask)
    else:
        typer.echo(f"{chosen} of {len(mask['units'])} units selected, written to {output}.")
