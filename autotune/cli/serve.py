"""`autotune serve`."""

from __future__ import annotations

import os
import socket
from typing import Annotated

import typer

from autotune.cli.common import app
from autotune.cli.options import setting_option

GRACE = 30
"""Seconds in which what was accepted is answered, when it ends."""


@app.command()
def serve(
    delta: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=RUN|DELTA", help="A task; to be given several times."),
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(metavar="SOURCE", help="The one that the first delta names.")
    ] = None,
    weights: Annotated[str | None, setting_option("weights")] = None,
    head: Annotated[str | None, setting_option("head")] = None,
    folder: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Where deltas may be added from while it runs."),
    ] = None,
    host: Annotated[
        str, typer.Option(metavar="HOST", help="Who may ask: this machine alone, or 0.0.0.0.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="N", help="Where it answers; 0 for a free one.")
    ] = 8000,
    token: Annotated[
        str | None,
        typer.Option(
            metavar="TOKEN",
            help="Asked for in each request; $AUTOTUNE_TOKEN where it is not given.",
        ),
    ] = None,
    max_bytes: Annotated[
        int, typer.Option(min=1, metavar="N", help="Largest request.")
    ] = 10_000_000,
    max_examples: Annotated[
        int, typer.Option(min=1, metavar="N", help="In one request, and one batch.")
    ] = 64,
    max_waiting: Annotated[
        int, typer.Option(min=1, metavar="N", help="Requests that may wait.")
    ] = 1000,
    device: Annotated[str, setting_option("device")] = "auto",
) -> None:
    """Answer for several tasks of one backbone over HTTP, what they have in common run once.

    Example: autotune serve --delta flowers=runs/flowers --delta pets=runs/pets
    """
    from autotune.errors import ConfigError, DependencyError
    from autotune.utils.distribution import install_command

    try:
        import uvicorn

        from autotune.deploy.serve.app import make_app
    except ImportError as error:
        raise DependencyError(
            f"The server needs {error.name}, which is not installed: {install_command('serve')}."
        ) from error
    from autotune.cli.live_progress import warned
    from autotune.deploy.serve.limits import Limits
    from autotune.deploy.serve.start import make_service
    from autotune.session.sources import choose_device

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
    bound = _bound(host, port)
    config = uvicorn.Config(
        make_app(service, token),
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=GRACE,
    )
    names, port = ", ".join(service.tasks) or "no task yet", bound.getsockname()[1]
    typer.echo(f"http://{host}:{port} answers for {names}; Ctrl-C ends it.", err=True)
    uvicorn.Server(config).run(sockets=[bound])


def _bound(host: str, port: int) -> socket.socket:
    from autotune.errors import ConfigError

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # named as TCP, so that small answers are sent at once (asyncio asks for the protocol)
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise ConfigError(
            f"A server needs a free port, {port} on {host} is not ({error.strerror}). Use --port."
        ) from error
    return bound
