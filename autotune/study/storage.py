"""Storage of a study: an Optuna storage that waits for an unavailable database."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from threading import local
from typing import Any

import optuna
from optuna.storages import BaseStorage, RDBStorage

from autotune.errors import DependencyError, RunError, first_line
from autotune.study.run_folder import RunFolder
from autotune.utils.distribution import install_command
from autotune.utils.events import warn
from autotune.utils.filesystems import disk_is_full, is_full, network_kind
from autotune.utils.timings import spent

PATIENCE, PAUSE = 45.0, 0.5
"""Seconds to wait for an unavailable database, and between two attempts.

The wait is shorter than `lease.STALE`, so that a driver that waits does not lose its study.
"""


def open_storage(folder: RunFolder, url: str | None) -> RDBStorage:
    """Open the SQLite file of the run folder, or the storage at `url`.

    Raises `RunError` if it is unreachable, `DependencyError` if its driver is not installed.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if url is None:
        folder.path.mkdir(parents=True, exist_ok=True)
    named = url or f"sqlite:///{folder.database}"
    is_sqlite = named.startswith("sqlite")
    options: dict[str, Any] = {"pool_pre_ping": True}
    if is_sqlite:
        options = {"connect_args": {"timeout": 60}}
    try:
        storage = PatientStorage(named, engine_kwargs=options)
        if url is None:
            _choose_journal(storage, folder.path)
        return storage
    except ImportError as error:
        driver = getattr(error.__cause__, "name", None) or "its driver"
        raise DependencyError(
            f"A {named.partition(':')[0]} storage needs {driver}, which is not installed. Install "
            f"it; for PostgreSQL: {install_command('postgres')}."
        ) from error
    except Exception as error:
        if is_full(error):
            raise disk_is_full(folder.path) from error
        first = first_line(error)
        raise RunError(f"A storage must be reachable, {named!r} is not ({first}).") from error


def open_reader(folder: RunFolder, url: str | None) -> RDBStorage:
    """Open the storage for reading; SQLite and PostgreSQL then refuse writes."""
    from sqlalchemy import event  # late: a fifth of a second

    storage = open_storage(folder, url)

    def connected(connection: Any, _: Any) -> None:
        kind = storage.engine.dialect.name
        statement = {
            "sqlite": "PRAGMA query_only = ON",
            "postgresql": "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
        }.get(kind)
        if statement is not None:
            connection.execute(statement)

    storage.engine.dispose()
    event.listen(storage.engine, "connect", connected)
    return storage


def _choose_journal(storage: RDBStorage, folder: Path) -> None:
    """Use write-ahead logging on a local disk and a rollback journal on a network file system.

    Write-ahead logging needs memory shared by all processes, which several machines do not have.
    Both survive a power cut, as SQLite waits for the disk at every commit.
    """
    mode = "DELETE" if network_kind(folder) else "WAL"
    # SQLite refuses to change the journal mode inside a transaction.
    engine = storage.engine.execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        (before,) = connection.exec_driver_sql("PRAGMA journal_mode").one()
        if before.upper() != mode:
            connection.exec_driver_sql(f"PRAGMA journal_mode={mode}")


def is_away(error: BaseException | None) -> bool:
    """Whether an error means that the database is unavailable for the moment."""
    from sqlalchemy.exc import InterfaceError, OperationalError

    while error is not None:
        if isinstance(error, OperationalError | InterfaceError):
            return not (is_full(error) or "readonly" in str(error) or "read-only" in str(error))
        error = error.__cause__
    return False


class PatientStorage(RDBStorage):
    """`RDBStorage` whose calls wait up to `PATIENCE` seconds for an unavailable database."""


_inside = local()
"""Marks, per thread, that a call is in progress: calls inside of it are not retried separately."""


def _patient(call: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(call)
    def patient(*args: Any, **kwargs: Any) -> Any:
        if getattr(_inside, "call", False):
            return call(*args, **kwargs)
        _inside.call = True
        try:
            with spent("storage"):
                return _waiting(lambda: call(*args, **kwargs))
        finally:
            _inside.call = False

    return patient


def _waiting(call: Callable[[], Any]) -> Any:
    began = time.monotonic()
    has_warned = False
    while True:
        try:
            return call()
        except Exception as error:
            if not is_away(error):
                raise
            if time.monotonic() - began > PATIENCE:
                raise RunError(
                    f"A storage must answer, this one has not for {PATIENCE:.0f} s. What was "
                    "recorded is kept; continue with autotune resume."
                ) from error
            if not has_warned:
                first = first_line(error.__cause__ or error)
                warn(f"The storage does not answer ({first}); waiting up to {PATIENCE:.0f} s.")
                has_warned = True
        time.sleep(PAUSE)


_PRIVATE = ("_create_new_trial", "_get_trials", "_check_and_set_param_distribution")
"""Private methods that Optuna's `_CachedStorage`, which wraps every `RDBStorage`, calls."""

for _name in (*(n for n in vars(BaseStorage) if not n.startswith("_")), *_PRIVATE):
    if callable(_call := getattr(RDBStorage, _name, None)):
        setattr(PatientStorage, _name, _patient(_call))
