"""`autotune compare`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from autotune.cli.common import (
    AsJson,
    NamedBackbone,
    NamedHeadFactory,
    NamedStorage,
    NamedTask,
    Run,
    app,
    show_json,
)
from autotune.cli.options import setting_option
from autotune.cli.search import Quiet

if TYPE_CHECKING:
    from autotune.session.compare import Comparison


@app.command()
def compare(
    run: Run,
    seeds: Annotated[int, typer.Option(min=1, metavar="N", help="Number of seeds per recipe.")] = 3,
    only: Annotated[
        str,
        typer.Option(
            metavar="NAMES", help="Compare only these, comma-separated, e.g. last-k,norms only."
        ),
    ] = "",
    source: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="Task the backbone was trained on; adds its accuracy with the delta off and on.",
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", help="Worker processes on this machine. Default: 1.")
    ] = None,
    device: Annotated[str | None, setting_option("device")] = None,
    backbone: NamedBackbone = None,
    task: NamedTask = None,
    head_factory: NamedHeadFactory = None,
    storage: NamedStorage = None,
    address: Annotated[str | None, setting_option("address")] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Compare the plan of a run with LP-FT, last-k, norms, biases, full fine-tuning and others.

    Each recipe is trained at the best of three learning rates on validation, then repeated with
    other seeds. Finished trainings are kept, so an interrupted comparison continues.

    Example: autotune compare runs/digits --source builtin:digits
    """
    from autotune.cli.live_progress import watching

    with watching(quiet=quiet or as_json):
        from autotune.session.compare import compare as run_comparison

        names = [name.strip() for name in only.split(",") if name.strip()]
        comparison = run_comparison(
            run,
            backbone,
            task,
            seeds=seeds,
            only=names,
            source=source,
            workers=workers,
            device=device,
            head_factory=head_factory,
            storage=storage,
            address=address,
        )
    show_json(comparison.to_json()) if as_json else _show(comparison)


def _show(comparison: Comparison) -> None:
    from autotune.cli.terminal import print_sections
    from autotune.run.report.comparison import compared, measured_cost, on_source

    remarks = []
    if comparison.full is not None:
        remarks.append(measured_cost(comparison.seconds, comparison.full))
    if comparison.source is not None:
        remarks.append(on_source(comparison.source))
    print_sections([compared(comparison.rows, remarks)])
