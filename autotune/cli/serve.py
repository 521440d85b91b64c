"""`autotune serve`."""

from __future__ import annotations

import os
import socket
from typing import Annotated

import typer

from autotune.cli.common import NamedHeadFactory, app, show
from autotune.cli.options import setting_option

GRACE_PERIOD = 30
"""Seconds to answer accepted requests after a stop.

A longer one may answer more of a full queue, a shorter one stops sooner.
"""


@app.command()
def serve(
    delta: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=RUN|DELTA", help="Task to serve. May be repeated."),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(metavar="SOURCE", help="Backbone. Default: that of the first delta."),
    ] = None,
    weights: Annotated[str | None, setting_option("weights")] = None,
    head: Annotated[str | None, setting_option("head")] = None,
    head_factory: NamedHeadFactory = None,
    folder: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Folder of deltas that may be added at runtime."),
    ] = None,
    host: Annotated[
        str,
        typer.Option(metavar="HOST", help="Address to listen on; 0.0.0.0 accepts other machines."),
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(min=0, max=65535, metavar="N", help="Port to listen on; 0 for a free one."),
    ] = 8000,
    token: Annotated[
        str | None,
        typer.Option(
            metavar="TOKEN",
            help="Token that each request must send. Default: $AUTOTUNE_TOKEN.",
        ),
    ] = None,
    max_bytes: Annotated[
        int, typer.Option(min=1, metavar="N", help="Largest request, in bytes.")
    ] = 10_000_000,
    max_examples: Annotated[
        int, typer.Option(min=1, metavar="N", help="Most examples per request and per batch.")
    ] = 64,
    max_waiting: Annotated[
        int, typer.Option(min=1, metavar="N", help="Most waiting requests; more are refused.")
    ] = 1000,
    device: Annotated[str, setting_option("device")] = "auto",
) -> None:
    """Serve several tasks of one backbone over HTTP, running their shared layers once.

    Example: autotune serve --delta flowers=runs/flowers --delta pets=runs/pets
    """
    from autotune.errors import ConfigError, DependencyError
    from autotune.utils.distribution import install_command

    try:
        import uvicorn

        from autotune.deploy.serve.app import make_app
        from autotune.deploy.serve.slow_clients import TimedProtocol
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
        raise ConfigError(f"A server that listens on {host} needs a token. Pass --token.")
    limits = Limits(max_bytes, max_examples, max_waiting)
    with warned():
        service = make_service(
            delta or [],
            backbone=backbone,
            weights=weights,
            head=head,
            head_factory=head_factory,
            folder=folder,
            limits=limits,
            device=choose_device(device),
        )
    bound = _bound(host, port)
    config = uvicorn.Config(
        make_app(service, token),
        http=TimedProtocol,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=GRACE_PERIOD,
    )
    names, port = ", ".join(service.tasks) or "no task yet", bound.getsockname()[1]
    show(f"Serving {names} at http://{host}:{port} (press Ctrl-C to stop).", err=True)
    uvicorn.Server(config).run(sockets=[bound])


def _bound(host: str, port: int) -> socket.socket:
    from autotune.errors import ConfigError

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio disables Nagle's delay of small answers only on a socket created as IPPROTO_TCP.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise ConfigError(
            f"The server needs a free port, but {port} on {host} is not ({error.strerror}). Choose "
            "one with --port."
        ) from error
    return bound
