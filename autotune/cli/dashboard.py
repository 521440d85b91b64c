"""`autotune dashboard`."""

from __future__ import annotations

from typing import Annotated

import typer

from autotune.cli.common import NamedStorage, Run, app, show
from autotune.run.reading import reading


@app.command()
def dashboard(
    run: Run,
    host: Annotated[
        str,
        typer.Option(metavar="HOST", help="Address to listen on; 0.0.0.0 accepts other machines."),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=1, max=65535, metavar="N", help="Port to listen on.")
    ] = 8080,
    storage: NamedStorage = None,
) -> None:
    """Show the study of a search in optuna-dashboard, read-only, also while the search runs.

    Example: autotune dashboard runs/digits --port 8081
    """
    from autotune.errors import ConfigError, DependencyError
    from autotune.utils.distribution import install_command

    try:
        from optuna_dashboard import run_server
    except ImportError as error:
        raise DependencyError(
            "The dashboard needs optuna-dashboard, which is not installed: "
            f"{install_command('dashboard')}."
        ) from error
    from autotune.run.notebook import Study
    from autotune.study.storage import open_reader

    with reading(run):
        study = Study(run, storage=storage)
        reader = open_reader(study.folder, study.storage)
    url = f"http://{host}:{port}/dashboard/studies/1"
    show(f"Serving {run} at {url} (press Ctrl-C to stop).", err=True)
    try:
        run_server(reader, host=host, port=port)
    except OSError as error:
        raise ConfigError(
            f"The dashboard needs a free port, but {port} is not ({error.strerror}). Choose one "
            "with --port."
        ) from error
