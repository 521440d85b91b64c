"""A SQLite database is read from a copy, and nothing where it is changes."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

import pytest

from autotune.errors import RunError
from autotune.study.database_copy import DatabaseCopy, fold_in


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """A database whose process was killed: its latest record is in the write-ahead file alone."""
    alive, folder = tmp_path / "alive.db", tmp_path / "run"
    folder.mkdir()
    with closing(sqlite3.connect(alive)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE t (x)")
        connection.commit()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("INSERT INTO t VALUES (1)")
        connection.commit()
        for suffix in ("", "-wal"):
            shutil.copy(f"{alive}{suffix}", folder / f"study.db{suffix}")
    return folder / "study.db"


def values(copy: DatabaseCopy) -> list[int]:
    with closing(copy.connect()) as connection:
        return [x for (x,) in connection.execute("SELECT x FROM t")]


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_what_is_in_the_write_ahead_file_is_read_and_nothing_changes(killed):
    before = files(killed.parent)
    assert values(DatabaseCopy(killed)) == [1]
    assert files(killed.parent) == before


def test_each_connection_sees_the_latest_records(killed):
    copy = DatabaseCopy(killed)
    with closing(sqlite3.connect(killed)) as connection:
        assert values(copy) == [1]
        connection.execute("INSERT INTO t VALUES (2)")
        connection.commit()
        assert values(copy) == [1, 2]
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        assert values(copy) == [1, 2]


def test_a_copy_cannot_be_written(killed):
    copy = DatabaseCopy(killed)
    with (
        closing(copy.connect()) as connection,
        pytest.raises(sqlite3.OperationalError, match="readonly"),
    ):
        connection.execute("INSERT INTO t VALUES (3)")


def test_a_commit_that_was_interrupted_is_rolled_back_in_the_copy_alone(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with closing(sqlite3.connect(tmp_path / "alive.db")) as connection:
        connection.execute("PRAGMA cache_size = 1")  # so that pages are written before the commit
        connection.execute("CREATE TABLE t (x)")
        connection.executemany("INSERT INTO t VALUES (?)", [(i,) for i in range(5000)])
        connection.commit()
        connection.execute("UPDATE t SET x = -1")
        for suffix in ("", "-journal"):
            shutil.copy(tmp_path / f"alive.db{suffix}", folder / f"study.db{suffix}")
    before = files(folder)
    assert values(DatabaseCopy(folder / "study.db")) == list(range(5000))
    assert files(folder) == before


def test_a_write_ahead_file_is_folded_in(killed, tmp_path):
    fold_in(killed)
    alone = Path(shutil.copy(killed, tmp_path / "alone.db"))
    assert values(DatabaseCopy(alone)) == [1]


def test_temporary_copies_are_removed(killed):
    copy = DatabaseCopy(killed)
    values(copy)
    folder = copy._folder
    assert folder.exists()
    del copy
    assert not folder.exists()


def test_without_room_in_the_temporary_folder_the_copy_is_in_the_cache(
    killed, full_disk, tmp_path, monkeypatch
):
    (full_disk / "more").write_bytes(bytes(4096))
    monkeypatch.setattr(tempfile, "tempdir", str(full_disk))
    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path / "cache"))
    copy = DatabaseCopy(killed)
    assert values(copy) == [1] and list((tmp_path / "cache").iterdir())
    del copy
    assert not list((tmp_path / "cache").iterdir())
    monkeypatch.setenv("AUTOTUNE_CACHE", str(killed))  # a file
    with pytest.raises(RunError, match=r"Make room, or set TMPDIR\."):
        DatabaseCopy(killed)
