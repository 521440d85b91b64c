"""`autotune report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autotune.cli.common import NamedStorage, app, show
from autotune.cli.completion import among
from autotune.cli.completion import runs as run_folders
from autotune.run.reading import reading

if TYPE_CHECKING:
    from autotune.run.notebook import Study


@app.command()
def report(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...", help="Run folder; several are compared.", autocompletion=run_folders
        ),
    ],
    form: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="FORM",
            help="Format: html (a page), md (Markdown) or json.",
            autocompletion=among("html md json"),
        ),
    ] = "html",
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="File to write. Default: report.html in the run folder; md and json are printed.",
        ),
    ] = None,
    storage: NamedStorage = None,
) -> None:
    """Report the result of a search as a self-contained page, Markdown or JSON.

    Several runs are shown side by side. A running or interrupted search is reported as it stands.

    Example: autotune report runs/digits
    """
    from autotune.cli.live_progress import warned
    from autotune.errors import ConfigError
    from autotune.run.notebook import Study
    from autotune.run.report import FORMS, write_report
    from autotune.utils.new_path import require_writable

    FORMS.check(form)
    if storage is not None and len(runs) > 1:
        raise ConfigError(
            f"A storage holds one study, got --storage with {len(runs)} runs. Name one run."
        )
    if out is not None:
        require_writable(out, "The report", "-o")
    with warned(), reading(", ".join(runs)):
        studies = [Study(run, still=True, storage=storage) for run in runs]
        text = write_report(studies, form)
    if form != "html" and out is None:
        show(text, nl=False)
        return
    show(f"Wrote {_put(studies, text, out)}")


def _put(studies: list[Study], text: str, out: str | None) -> Path:
    """Write the page and return its file; by default, fall back to the working directory."""
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
        show(f"{default} cannot be written ({reason}); writing it here instead.", err=True)
    fallback = Path(f"report-{studies[0].folder.path.name}.html")
    try:
        write_whole(fallback, text)
    except OSError as error:
        raise _not_written(fallback, error) from error
    return fallback


def _not_written(file: Path, error: OSError) -> Exception:
    from autotune.errors import ConfigError

    return ConfigError(
        f"The report cannot be written to {str(file)!r} ({error.strerror}). "
        "Name another file with -o."
    )
