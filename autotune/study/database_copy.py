"""Copy of a SQLite database in a temporary folder, for reading it without touching the original.

Opening the original, even read-only, may create files next to it, and one whose process was killed
holds its latest records in a write-ahead file, which only a connection that writes can fold in.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
import time
import weakref
from contextlib import closing, suppress
from pathlib import Path
from threading import Lock
from typing import Any

from autotune.errors import RunError, first_line
from autotune.utils.files import cache_folder

BESIDE = ("-wal", "-journal")
"""Suffixes of the files next to a database that hold a part of its content."""

WAL_HEADER = 32
"""Bytes at the beginning of a write-ahead file, which change when it begins anew."""

ATTEMPTS, PAUSE = 50, 0.05
"""Attempts to copy a database that is being written, and seconds between two of them.

A write-ahead file begins anew once in a thousand pages, so that the second attempt succeeds; a
rollback journal exists for a few milliseconds per commit.
"""


class DatabaseCopy:
    """Copy of a database with everything that is committed; each connection sees the latest."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._folder = _folder_with_room(file)
        self._number, self._state, self._lock = 0, None, Lock()
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)

    def connect(self) -> sqlite3.Connection:
        """Open a connection to the copy, made anew if the original has changed."""
        with self._lock:
            if (state := _state(self.file)) != self._state:
                self._renew()
                self._state = state
            connection = sqlite3.connect(self._copy, check_same_thread=False)
        connection.execute("PRAGMA query_only = ON")
        connection.execute("PRAGMA trusted_schema = OFF")  # the database may come from others
        return connection

    @property
    def _copy(self) -> Path:
        return self._folder / f"study-{self._number}.db"

    def _renew(self) -> None:
        former, self._number = self._copy, self._number + 1
        _copy_whole(self.file, self._copy)
        _fold(self._copy)
        with suppress(OSError):  # a connection may still have it open
            former.unlink()


SPARE = 2
"""Room for a copy, in multiples of the size of a database and its write-ahead file.

A changed database is copied again before the former copy is removed.
"""


def _folder_with_room(file: Path) -> Path:
    """New folder for copies: a temporary one, or in the cache folder if there is no room there."""
    needed = SPARE * sum(stamp[1] for stamp in _state(file) if stamp is not None)
    first: Exception | None = None
    for place in (None, cache_folder()):
        try:
            if place is not None:
                place.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix="autotune-study-", dir=place))
        except OSError as error:
            first = first or error
            continue
        if place is not None or shutil.disk_usage(folder).free >= needed:
            return folder
        folder.rmdir()
    raise _no_copy(file, tempfile.gettempdir(), first) from first


def _no_copy(file: Path, where: str | Path, error: BaseException | None) -> RunError:
    reason = "no room" if error is None else first_line(error)
    return RunError(
        f"A study is read from a copy in {str(where)!r}, {str(file)!r} cannot be copied "
        f"({reason}). Make room, or set TMPDIR."
    )


def fold_in(file: Path) -> None:
    """Fold the write-ahead file of a database in, so that the database alone is complete.

    Only while no driver is alive. Where it cannot be written, it stays as it is.
    """
    if Path(f"{file}-wal").is_file():
        with suppress(sqlite3.Error):
            _fold(file)


def _fold(file: Path) -> None:
    with closing(sqlite3.connect(file, timeout=1)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _copy_whole(file: Path, copy: Path) -> None:
    """Copy a database and the files that complete it; again if it changed too much meanwhile."""
    for _ in range(ATTEMPTS):
        before = _anchor(file)
        _copy_once(file, copy)
        if _anchor(file) == before:
            return
        time.sleep(PAUSE)
    raise RunError(f"A study is read from a copy, {str(file)!r} changes too fast. Try again.")


def _copy_once(file: Path, copy: Path) -> None:
    try:
        shutil.copyfile(file, copy)
        for suffix in BESIDE:
            there, here = Path(f"{file}{suffix}"), Path(f"{copy}{suffix}")
            here.unlink(missing_ok=True)
            with suppress(FileNotFoundError):
                if there.is_file():  # a pipe would be waited for
                    shutil.copyfile(there, here)
    except OSError as error:
        raise _no_copy(file, copy.parent, error) from error


def _anchor(file: Path) -> Any:
    """What changes if a copy that is made meanwhile may be torn.

    As long as a write-ahead file grows, it has every page that the database gets from it.
    """
    return _header(Path(f"{file}-wal")) or _state(file)


def _header(file: Path) -> bytes:
    try:
        if file.is_file():
            with file.open("rb") as stream:
                return stream.read(WAL_HEADER)
    except FileNotFoundError:
        pass
    return b""


def _state(file: Path) -> Any:
    """Sizes and times of a database and of the files that complete it."""
    return tuple(_stamp(Path(f"{file}{suffix}")) for suffix in ("", *BESIDE))


def _stamp(file: Path) -> tuple[int, ...] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
