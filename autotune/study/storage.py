"""Storage of a study: an Optuna storage that waits for an unavailable database."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from threading import local
from typing import TYPE_CHECKING, Any, TypeVar

import optuna
from optuna.storages import BaseStorage, RDBStorage

from autotune.errors import AutotuneError, DependencyError, RunError, first_line
from autotune.study.database_copy import DatabaseCopy
from autotune.study.run_folder import RunFolder
from autotune.utils.distribution import install_command
from autotune.utils.events import warn
from autotune.utils.filesystems import disk_is_full, is_full, network_kind
from autotune.utils.timings import spent

if TYPE_CHECKING:
    from sqlalchemy import Engine

T = TypeVar("T")

PATIENCE, PAUSE = 45.0, 0.5
"""Seconds to wait for an unavailable database, and between two attempts.

The wait is shorter than `lease.STALE`, so that a driver that waits does not lose its study.
"""


BUSY = 1.0
"""Seconds that SQLite itself waits for a lock, in one attempt.

It does so without heeding Ctrl-C, so this is short; the attempts are repeated.
"""


def open_storage(folder: RunFolder, url: str | None) -> RDBStorage:
    """Open the SQLite file of the run folder, or the storage at `url`, for writing.

    Raises `RunError` if it is unreachable, `DependencyError` if its driver is not installed.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if url is None:
        folder.path.mkdir(parents=True, exist_ok=True)
        folder.require_plain(folder.database)
    named = url or f"sqlite:///{folder.database}"
    options: dict[str, Any] = {"pool_pre_ping": True}
    if named.startswith("sqlite"):
        options = {"connect_args": {"timeout": BUSY}}
    with _reached(folder, named):
        storage = _created(named, options)
        if url is None:
            _choose_journal(storage, folder.path)
        return storage


def _created(url: str, options: Mapping[str, Any]) -> RDBStorage:
    """Storage with its tables; waits if another process creates them or locks the database."""

    def created() -> RDBStorage:
        return PatientStorage(url, engine_kwargs=dict(options))

    return _waiting(created, url, reads=False, is_passing=_is_in_use)


def _is_in_use(error: BaseException) -> bool:
    """Whether a database cannot be opened only because another process uses it at the moment.

    One that cannot be reached at all is not waited for: its address may be wrong.
    """
    from sqlalchemy.exc import DBAPIError

    text = str(error).lower()
    return isinstance(error, DBAPIError) and any(part in text for part in (*_TWICE, "is locked"))


_TWICE = ("already exists", "unique constraint", "duplicate key", "duplicate entry")
"""Parts of messages of SQLite, PostgreSQL and MySQL on what exists already."""


def open_reader(folder: RunFolder, url: str | None) -> RDBStorage:
    """Open the storage for reading: nothing where it is changes, and no file is created there.

    Raises `RunError` if it is unreachable or holds no study.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # its warnings span several lines
    named = url or f"sqlite:///{folder.database}"
    with _reached(folder, named):
        if (file := _sqlite_file(named)) is None:
            return _server_reader(named)
        if url is None:
            folder.require_plain(file)
        return _file_reader(file, named)


def _sqlite_file(url: str) -> Path | None:
    """File of a SQLite storage; None for a server."""
    from sqlalchemy import make_url  # late: a fifth of a second

    parsed = make_url(url)
    is_sqlite = parsed.get_backend_name() == "sqlite"
    return Path(parsed.database or ":memory:") if is_sqlite else None


def _file_reader(file: Path, url: str) -> RDBStorage:
    from sqlalchemy import NullPool, create_engine

    if not file.is_file():
        raise no_study(url)
    options = {"creator": DatabaseCopy(file).connect, "poolclass": NullPool}
    _require_tables(create_engine("sqlite://", **options), url)
    return PatientStorage("sqlite://", engine_kwargs=options, skip_table_creation=True)


def _server_reader(url: str) -> RDBStorage:
    from sqlalchemy import create_engine, event

    _require_tables(create_engine(url), url)
    options = {"pool_pre_ping": True}
    storage = PatientStorage(url, engine_kwargs=options, skip_table_creation=True)

    def connected(connection: Any, _: Any) -> None:
        if storage.engine.dialect.name == "postgresql":
            statement = "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"
            connection.execute(statement)

    storage.engine.dispose()
    event.listen(storage.engine, "connect", connected)
    return storage


def _require_tables(engine: Engine, url: str) -> None:
    """Raise `RunError` if a storage lacks Optuna's tables, which would be added to it."""
    from sqlalchemy import inspect

    tables = set(inspect(engine).get_table_names())
    engine.dispose()
    if not {"studies", "version_info", "alembic_version"} <= tables:
        raise no_study(url)


def no_study(url: str) -> RunError:
    """Error to raise if a storage has no study of autotune."""
    return RunError(
        f"A run has a study, {readable(url)} holds none. Continue with autotune resume, or search "
        "again."
    )


def readable(url: str) -> str:
    """A storage as messages name it: without a password, and the path alone for a SQLite file."""
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url).render_as_string(hide_password=True).removeprefix("sqlite:///")
    except ArgumentError:
        return repr(url)


@contextmanager
def _reached(folder: RunFolder, url: str) -> Iterator[None]:
    """Context that reports why a storage could not be opened."""
    try:
        yield
    except AutotuneError:
        raise
    except ImportError as error:
        driver = getattr(error.__cause__, "name", None) or "its driver"
        raise DependencyError(
            f"A {url.partition(':')[0]} storage needs {driver}, which is not installed. Install "
            f"it; for PostgreSQL: {install_command('postgres')}."
        ) from error
    except Exception as error:
        if is_full(error):
            raise disk_is_full(folder.path) from error
        first = first_line(error)
        raise RunError(
            f"A storage must be reachable, {readable(url)!r} is not ({first})."
        ) from error


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
            return not (is_full(error) or any(text in str(error) for text in _LASTING))
        error = error.__cause__
    return False


_LASTING = ("readonly", "read-only", "no such table", "no such column", "decode", "malformed")
"""Parts of messages of a database that waiting does not help."""


def is_damaged(error: BaseException) -> bool:
    """Whether an error of a read means that the stored study is not what was written."""
    from sqlalchemy.exc import DBAPIError

    if isinstance(error, AutotuneError) or is_full(error):
        return False
    kinds = DBAPIError | ValueError | TypeError | AttributeError | AssertionError
    return isinstance(error, kinds) or isinstance(error.__cause__, DBAPIError)


class PatientStorage(RDBStorage):
    """`RDBStorage` whose calls wait up to `PATIENCE` seconds for an unavailable database."""


_inside = local()
"""Marks, per thread, that a call is in progress: calls inside of it are not retried separately."""


def _patient(call: Callable[..., Any]) -> Callable[..., Any]:
    reads = call.__name__.startswith(("get_", "_get_"))
    lists = call.__name__ in _LISTING

    @wraps(call)
    def patient(*args: Any, **kwargs: Any) -> Any:
        if getattr(_inside, "call", False):
            return call(*args, **kwargs)
        _inside.call = True
        try:
            with spent("storage"):
                return _waiting(
                    lambda: call(*args, **kwargs), args[0].url, reads=reads, lists=lists
                )
        finally:
            _inside.call = False

    return patient


_LISTING = ("get_all_trials", "_get_trials")
"""Calls for which no `LookupError` means that there is nothing of a name."""


def damaged_study(error: BaseException) -> RunError:
    """Error to raise if a stored study cannot be what was written."""
    return RunError(
        f"A study must be as it was written, this one is damaged ({type(error).__name__}: "
        f"{first_line(error)}). Restore its database from a copy, or search again with the run's "
        "config.yaml."
    )


_silent: dict[str, bool] = {}
"""Address of a storage that does not answer → whether it was waited for as long as possible.

Then it gets one attempt per call, until a write succeeds: a locked database may still be read.
"""


def _waiting(
    call: Callable[[], T],
    url: str,
    *,
    reads: bool,
    lists: bool = False,
    is_passing: Callable[[BaseException], bool] = is_away,
) -> T:
    """Result of a call, which is repeated up to `PATIENCE` seconds while its error `is_passing`."""
    began = time.monotonic()
    while True:
        try:
            result = call()
            if not reads:
                _silent.pop(url, None)
            return result
        except Exception as error:
            if not is_passing(error):
                is_unlike = lists and isinstance(error, LookupError)
                damaged = reads and (is_unlike or is_damaged(error))
                raise _lasting(url, error, is_damage=damaged) from error.__cause__
            if _silent.get(url) or time.monotonic() - began > PATIENCE:
                _silent[url] = True
                raise _unanswered(url, error) from error
            if url not in _silent:
                _silent[url] = False
                warn(f"The storage {_silence(url, error)}; waiting up to {PATIENCE:.0f} s.")
        time.sleep(PAUSE)


def _lasting(url: str, error: Exception, *, is_damage: bool) -> Exception:
    """Error to raise for one that waiting does not help."""
    cause = error.__cause__ or error
    if "readonly" in str(cause).lower() or "read-only" in str(cause).lower():
        reason = first_line(getattr(cause, "orig", None) or cause)
        return RunError(
            f"A storage must be writable, {readable(url)} is not ({reason}). What was recorded is "
            "kept. Permit it, or copy the run to a place of your own, then continue with autotune "
            "resume."
        )
    return damaged_study(error) if is_damage else error


def _silence(url: str, error: BaseException) -> str:
    cause = error.__cause__ or error
    return f"{readable(url)} does not answer ({first_line(getattr(cause, 'orig', None) or cause)})"


def _unanswered(url: str, error: BaseException) -> RunError:
    way_out = "Try again" if _sqlite_file(url) is None else "Close the program that has it open"
    return RunError(
        f"A storage must answer within {PATIENCE:.0f} s, {_silence(url, error)}. What was recorded "
        f"is kept. {way_out}, then continue with autotune resume."
    )


_PRIVATE = ("_create_new_trial", "_get_trials", "_check_and_set_param_distribution")
"""Private methods that Optuna's `_CachedStorage`, which wraps every `RDBStorage`, calls."""

for _name in (*(n for n in vars(BaseStorage) if not n.startswith("_")), *_PRIVATE):
    if callable(_call := getattr(RDBStorage, _name, None)):
        setattr(PatientStorage, _name, _patient(_call))
