"""`autotune status`."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from autotune.cli.common import AsJson, NamedStorage, Run, app, show_json
from autotune.run.reading import reading
from autotune.utils import interrupts


@app.command()
def status(
    run: Run,
    watch: Annotated[
        bool,
        typer.Option("--watch", metavar="", help="Follow a running search until it ends."),
    ] = False,
    storage: NamedStorage = None,
    as_json: AsJson = False,
) -> None:
    """Show the state of a search, also while it runs.

    Example: autotune status runs/digits --watch
    """
    from autotune.cli.results import print_status
    from autotune.run.known_runs import fold_known
    from autotune.run.notebook import Study

    if watch:
        _watch(run, storage)
    with reading(run):
        study = Study(run, still=True, storage=storage)
        fold_known(study.folder)
        show_json(study.status()) if as_json else print_status(study)


def _watch(run: str, storage: str | None) -> None:
    """Follow the search until it ends or stops; Ctrl-C ends only the watch."""
    from autotune.cli.live_progress import follow
    from autotune.run.notebook import Study

    with suppress(KeyboardInterrupt):
        while Path(run).is_dir() and not (Path(run) / "config.yaml").exists():
            time.sleep(0.5)  # a search that just began creates its folder before its configuration
        study = Study(run, storage=storage)
        follow(study.folder.path, lambda: study.state == "running")
    interrupts.forget()  # the state is shown all the same
