"""`autotune dashboard`."""

from __future__ import annotations

from typing import Annotated

import typer

from autotune.cli.common import Run, app


@app.command()
def dashboard(
    run: Run,
    host: Annotated[
        str, typer.Option(metavar="HOST", help="Who may look: this machine alone, or 0.0.0.0.")
    ] = ("127.0.0.1"),
    port: Annotated[
        int, typer.Option(min=1, max=65535, metavar="N", help="Where it answers.")
    ] = 8080,
) -> None:
    """Look at the study of a search with optuna-dashboard, also while it runs; it writes nothing.

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

    study = Study(run)
    typer.echo(f"http://{host}:{port}/dashboard/studies/1 shows {run}; Ctrl-C ends it.", err=True)
    try:
        run_server(open_reader(study.folder, study.settings.storage), host=host, port=port)
    except OSError as error:
        raise ConfigError(
            f"A dashboard needs a free port, {port} is not ({error.strerror}). Use --port."
        ) from error
