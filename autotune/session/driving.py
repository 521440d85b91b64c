"""Ownership of a study for one session: its lease, its driver, its backend, and its log."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autotune.errors import Interrupted
from autotune.run.known_runs import fold_known
from autotune.run.results import command_of
from autotune.run.settings import current_names
from autotune.session.beginning import prepared_buffers
from autotune.session.identity import identity_of, refuse_other
from autotune.session.setup import Setup
from autotune.session.workers import open_backend
from autotune.study.backends.base import Backend
from autotune.study.driver import Driver, DriverOptions
from autotune.study.lease import Lease
from autotune.study.reader import Records
from autotune.study.run_folder import EventLog, RunFolder
from autotune.study.strategies import check_options
from autotune.study.writer import Writer
from autotune.utils.events import log
from autotune.utils.filesystems import disk_is_full, is_full, warn_of_network
from autotune.utils.interrupts import interruptible, resumable


@contextmanager
def owned(folder: RunFolder, setup: Setup, *, command: str) -> Iterator[Writer]:
    """Context that owns the study of a run.

    Raises `RunError` if something differs from what the run began with or the disk is full, and
    on Ctrl-C or SIGTERM `Interrupted`, which names the command to continue with.
    """
    with ending_in_order(folder, setup, command=command):
        try:
            with _leased(folder, setup) as writer:
                yield writer
        finally:
            fold_known(folder)


@contextmanager
def ending_in_order(folder: RunFolder, setup: Setup, *, command: str) -> Iterator[None]:
    """Context of work in a run folder: what ends it is reported with the way to continue.

    Raises `RunError` if the disk is full, and on Ctrl-C, SIGTERM or SIGHUP `Interrupted`.
    """
    way_on = "Finished work is kept; continue with: " + command_of(setup.settings, folder, command)
    try:
        with interruptible(), resumable(way_on):
            yield
    except KeyboardInterrupt as error:
        raise Interrupted(f"Interrupted. {way_on}") from error
    except Exception as error:
        if is_full(error):
            raise disk_is_full(folder.path) from error
        if isinstance(error, OSError) and (file := _file_in(folder, error)) is not None:
            raise folder.not_writable(file, error.strerror or type(error).__name__) from error
        raise


def _file_in(folder: RunFolder, error: OSError) -> Path | None:
    """File or folder of a run that an error is about; None for an error about anything else."""
    named = error.filename
    file = Path(os.fsdecode(named)) if isinstance(named, str | bytes) else None
    return file if file is not None and file.is_relative_to(folder.path) else None


@contextmanager
def driving(
    setup: Setup, writer: Writer, *, deadline: float | None = None
) -> Iterator[tuple[Driver, Backend]]:
    """Context with the driver and backend of a study that is prepared, as is the backbone."""
    driver = Driver(
        writer.folder,
        setup.settings.storage,
        _driver_options(setup),
        writer.lease,
        trials=setup.settings.trials,
        deadline=deadline,
    )
    setup.engine.prepare(prepared_buffers(writer, setup.backbone.network))
    # again, as Ray puts its own handler of SIGTERM, which aborts, in the place of ours
    with open_backend(setup) as backend, interruptible():
        yield driver, backend


@contextmanager
def _leased(folder: RunFolder, setup: Setup) -> Iterator[Writer]:
    records = Records(folder, setup.settings.storage, is_writable=True)
    refuse_other(current_names(records.identity), identity_of(setup), folder)
    lease = Lease(
        folder.lease,
        lambda: records.study.user_attrs.get("lease"),
        lambda owner: records.study.set_user_attr("lease", owner),
    )
    with _listening(folder), lease:
        if setup.settings.storage is None:
            warn_of_network(folder.path)
        yield Writer(folder, setup.settings.storage, lease, attempts=_attempts(setup))


def _attempts(setup: Setup) -> int:
    return setup.settings.retries + 1


def _driver_options(setup: Setup) -> DriverOptions:
    settings = setup.settings
    return DriverOptions(
        strategy=settings.strategy,
        seed=settings.seed,
        steps=settings.folds or settings.epochs,
        grids=setup.grids,
        workers=settings.n_workers,
        folds=settings.folds,
        pruner=settings.pruner,
        objective=settings.objective or "",
        strategy_options=check_options(settings.strategy, settings.options),
        keep=settings.keep,
        disk=settings.disk_bytes,
        attempts=_attempts(setup),
    )


@contextmanager
def _listening(folder: RunFolder) -> Iterator[None]:
    handler, level = EventLog(folder), log.level
    log.addHandler(handler)
    log.setLevel(min(logging.INFO, level) if level else logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        handler.close()
