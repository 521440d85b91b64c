"""`autotune serve`."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from autotune.cli.common import app


@app.command()
def serve(
    delta: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=RUN|DELTA", help="A task; to be given several times."),
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(metavar="SOURCE", help="The one that the first delta names.")
    ] = None,
    weights: Annotated[str | None, typer.Option(help="The backbone's own, as in search.")] = None,
    head: Annotated[str | None, typer.Option(help="The backbone's, as in search.")] = None,
    folder: Annotated[
        str | None, typer.Option(help="Where deltas may be added from while it runs.")
    ] = None,
    host: Annotated[str, typer.Option(help="Who may ask: this machine alone, or 0.0.0.0.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    token: Annotated[
        str | None,
        typer.Option(help="Asked for in each request; $AUTOTUNE_TOKEN where it is not given."),
    ] = None,
    max_bytes: Annotated[int, typer.Option(min=1, help="Of one request.")] = 10_000_000,
    max_examples: Annotated[int, typer.Option(min=1, help="Of one request and one batch.")] = 64,
    max_waiting: Annotated[int, typer.Option(min=1, help="Requests that may wait.")] = 1000,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, …")] = "auto",
) -> None:
    """Answer for several tasks of one backbone over HTTP, what they have in common run once.

    Example: autotune serve --delta flowers=runs/flowers --delta pets=runs/pets
    """
    from autotune.errors import ConfigError, DependencyError

    try:
        import uvicorn

        from autotune.serve.app import make_app
    except ImportError as error:
        raise DependencyError(
            f"The server needs {error.name}, which is not installed: pip install 'autotune[serve]'."
        ) from error
    from autotune.cli.live import warned
    from autotune.serve.service import Limits
    from autotune.serve.start import make_service
    from autotune.setup import choose_device

    token = token or os.environ.get("AUTOTUNE_TOKEN")
    if host not in ("127.0.0.1", "::1", "localhost") and not token:
        raise ConfigError(f"A server that others reach ({host}) needs a token: give --token.")
    limits = Limits(max_bytes, max_examples, max_waiting)
    with warned():
        service = make_service(
            delta or [],
            backbone=backbone,
            weights=weights,
            head=head,
            folder=folder,
            limits=limits,
            device=choose_device(device),
        )
    config = uvicorn.Config(
        make_app(service, token), host=host, port=port, log_level="warning", access_log=False
    )
    names = ", ".join(service.tasks) or "no task yet"
    typer.echo(f"http://{host}:{port} answers for {names}; Ctrl-C ends it.", err=True)
    try:
        uvicorn.Server(config).run()
    except SystemExit as error:
        raise ConfigError(f"A server needs a free port, {port} is not. Use --port.") from error
