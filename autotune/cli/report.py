"""`autotune report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autotune.cli.common import app
from autotune.cli.completion import among
from autotune.cli.completion import runs as run_folders

if TYPE_CHECKING:
    from autotune.run.notebook import Study


@app.command()
def report(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...", help="A run folder; several are compared.", autocompletion=run_folders
        ),
    ],
    form: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="FORM",
            help="html (a page), md (Markdown) or json.",
            autocompletion=among("html md json"),
        ),
    ] = "html",
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="Where to; a page goes into the run folder by itself, the others are printed.",
        ),
    ] = None,
) -> None:
    """Tell what a search found: one page that needs no network, or Markdown, or JSON.

    Several runs are told side by side. A search that runs or was interrupted is told as it stands.

    Example: autotune report runs/digits
    """
    from autotune.cli.live_progress import warned
    from autotune.run.notebook import Study
    from autotune.run.report import FORMS, write_report

    FORMS.check(form)
    with warned():
        studies = [Study(run, still=True) for run in runs]
        text = write_report(studies, form)
    if form != "html" and out is None:
        typer.echo(text, nl=False)
        return
    typer.echo(f"The report is in {_put(studies, text, out)}")


def _put(studies: list[Study], text: str, out: str | None) -> Path:
    """Write it where it belongs, or, where that cannot be written, here, and say so."""
    from autotune.utils.files import write_whole

    default = studies[0].folder.path / "report.html"
    file = Path(out) if out else default if len(studies) == 1 else Path("report.html")
    try:
        write_whole(file, text)
        return file
    except OSError as error:
        if file != default:
            raise _not_written(file, error) from error
        reason = error.strerror
        typer.echo(f"{default} cannot be written ({reason}); it goes here instead.", err=True)
    beside = Path(f"report-{studies[0].folder.path.name}.html")
    try:
        write_whole(beside, text)
    except OSError as error:
        raise _not_written(beside, error) from error
    return beside


def _not_written(file: Path, error: OSError) -> Exception:
    from autotune.errors import ConfigError

    return ConfigError(
        f"A report is written to a file, {str(file)!r} cannot be ({error.strerror}). "
        "Name another with -o."
    )
