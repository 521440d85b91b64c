"""`autotune status`."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from autotune.cli.common import AsJson, Run, app, show_json


@app.command()
def status(
    run: Run,
    watch: Annotated[
        bool,
        typer.Option("--watch", metavar="", help="Follow a running search until it ends."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the state of a search, also while it runs.

    Example: autotune status runs/digits --watch
    """
    from autotune.cli.results import print_status
    from autotune.run.notebook import Study

    if watch:
        _watch(run)
    study = Study(run, still=True)
    show_json(study.status()) if as_json else print_status(study)


def _watch(run: str) -> None:
    """Follow the search until it ends or stops; Ctrl-C ends only the watch."""
    from autotune.cli.live_progress import follow
    from autotune.run.notebook import Study

    with suppress(KeyboardInterrupt):
        while Path(run).is_dir() and not (Path(run) / "config.yaml").exists():
            time.sleep(0.5)  # a search that just began creates its folder before its configuration
        follow(Study(run).folder.path, lambda: Study(run).state == "running")
