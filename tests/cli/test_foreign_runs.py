"""Run folders from others: looking at one obeys nothing in it, and changes nothing."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from autotune.run.known_runs import remember_run
from autotune.run.settings import Settings
from autotune.study import storage as storages
from autotune.study.reader import Records
from autotune.study.run_folder import EventLog, RunFolder

ENDED = Path(__file__).parent.parent / "data" / "formats" / "0.1.0" / "run-ended"


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A run of another user."""
    return Path(shutil.copytree(ENDED, tmp_path / "foreign"))


def set_value(run: Path, name: str, value: str) -> None:
    lines = (run / "config.yaml").read_text().splitlines()
    kept = [line for line in lines if not line.startswith(f"{name}:")]
    (run / "config.yaml").write_text("\n".join([*kept, f"{name}: {value}", ""]))


def contents(folder: Path) -> dict[str, bytes]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


LOOKING = [
    ("status",),
    ("status", "--json"),
    ("report", "--format", "json"),
    ("inspect",),
    ("config",),
]


@pytest.mark.parametrize("command", LOOKING, ids=" ".join)
def test_looking_at_a_run_changes_nothing(call, foreign, command):
    before = contents(foreign)
    code, _, errors = call(command[0], foreign, *command[1:])
    assert code == 0, errors
    assert contents(foreign) == before


@pytest.mark.parametrize("command", ["status", "report", "resume", "compare", "evaluate", "export"])
def test_a_storage_that_only_a_folder_names_is_not_opened(call, foreign, tmp_path, command):
    victim = tmp_path / "victim.db"
    with closing(sqlite3.connect(victim)) as connection:
        connection.execute("CREATE TABLE mine (x)")
    before = victim.read_bytes()
    set_value(foreign, "storage", f"sqlite:///{victim}")
    for name in ("backbone", "task"):
        set_value(foreign, name, "builtin:digits")
    code, _, errors = call(command, foreign)
    assert code == 2
    assert errors.count("\n") == 1
    assert "does not decide what is connected to" in errors
    assert "--storage" in errors
    assert victim.read_bytes() == before


@pytest.fixture
def host() -> Iterator[tuple[int, list[object]]]:
    """A port of this machine, and the connections that it got."""
    connections: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        ended = threading.Event()

        def listen() -> None:
            while not ended.is_set():
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                connections.append(connection)
                connection.close()

        thread = threading.Thread(target=listen)
        thread.start()
        yield server.getsockname()[1], connections
        ended.set()
        thread.join()


def test_no_host_that_a_folder_names_is_connected_to(call, foreign, host):
    port, connections = host
    for name in ("backbone", "task"):
        set_value(foreign, name, "builtin:digits")
    set_value(foreign, "backend", "ray")
    set_value(foreign, "address", f"127.0.0.1:{port}")
    code, _, errors = call("resume", foreign, "--trials", 40)
    assert (code, "--address" in errors) == (2, True), errors
    set_value(foreign, "storage", f"postgresql+psycopg://u@127.0.0.1:{port}/db")
    assert call("status", foreign)[0] == 2
    assert connections == []


def test_a_storage_that_is_named_on_the_command_line_is_read(call, foreign, tmp_path):
    moved = shutil.move(foreign / "study.db", tmp_path / "moved.db")
    set_value(foreign, "storage", "sqlite:////gone.db")
    before = contents(foreign)
    code, out, errors = call("status", foreign, "--storage", f"sqlite:///{moved}", "--json")
    assert code == 0, errors
    assert json.loads(out)["state"] == "complete"
    assert contents(foreign) == before


def test_tables_are_added_to_no_database_that_is_looked_at(call, foreign, tmp_path):
    with closing(sqlite3.connect(tmp_path / "other.db")) as connection:
        connection.execute("CREATE TABLE mine (x)")
    before = (tmp_path / "other.db").read_bytes()
    code, _, errors = call("status", foreign, "--storage", f"sqlite:///{tmp_path / 'other.db'}")
    assert (code, "holds none" in errors) == (2, True)
    assert (tmp_path / "other.db").read_bytes() == before


@pytest.mark.parametrize("name", ["study.db", "study.db-wal", "study.db-journal"])
def test_a_database_that_is_a_link_is_refused(call, foreign, tmp_path, name):
    shutil.copy(foreign / "study.db", tmp_path / "elsewhere")
    (foreign / name).unlink(missing_ok=True)
    (foreign / name).symlink_to(tmp_path / "elsewhere")
    code, _, errors = call("status", foreign)
    assert (code, "has no links" in errors) == (2, True), errors


def test_a_log_that_is_a_link_is_not_written(foreign, tmp_path):
    (tmp_path / "diary").write_text("mine")
    (foreign / "log.jsonl").unlink()
    (foreign / "log.jsonl").symlink_to(tmp_path / "diary")
    with pytest.raises(Exception, match="has no links"):
        EventLog(RunFolder(foreign))
    assert (tmp_path / "diary").read_text() == "mine"


def test_a_run_without_a_database_is_looked_at_without_one(call, foreign):
    (foreign / "study.db").unlink()
    assert "holds none" in call("status", foreign)[2]
    assert not (foreign / "study.db").exists()


def overwrite(file: Path, at: int, content: bytes) -> None:
    with file.open("r+b") as stream:
        stream.seek(at)
        stream.write(content)


@pytest.mark.parametrize("content", [b"\0" * 4096, b"\xff" * 4096, bytes(range(256)) * 16])
def test_overwritten_pages_of_a_study_are_one_line(call, foreign, tmp_path, content, monkeypatch):
    monkeypatch.setattr(storages, "PATIENCE", 0.5)
    whole = (foreign / "study.db").read_bytes()
    codes = set()
    for at in range(0, len(whole), 5 * 4096):
        (foreign / "study.db").write_bytes(whole)
        overwrite(foreign / "study.db", at, content)
        code, _, errors = call("status", foreign, "--json")
        assert code in (0, 2), errors
        assert errors.count("\n") == (code == 2), errors
        codes.add(code)
    assert 2 in codes


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("problem", None),
        ("problem", 3),
        ("problem", {"units": []}),
        ("identity", "x"),
        ("stage:final", {"value": "x"}),
        ("stage:final", [1]),
        ("stage:preparation", 7),
        ("reference:probe", {"value": []}),
        ("sitting:1", "long"),
        ("format", "1"),
        ("lease", {"pid": "x"}),
    ],
)
def test_records_of_foreign_types_are_one_line(call, foreign, name, value):
    Records(RunFolder(foreign), None, is_writable=True).study.set_user_attr(name, value)
    codes = set()
    for command in ("status", "report"):
        code, _, errors = call(command, foreign)
        assert errors.count("\n") == (code == 2), errors
        codes.add(code)
    assert codes <= {0, 2}
    assert 2 in codes or name == "lease"


@pytest.mark.parametrize("name", ["study.db", "study.db-wal", "origins.json", "config.yaml"])
@pytest.mark.parametrize("kind", ["directory", "pipe"])
def test_what_is_no_file_where_one_belongs_is_one_line(call, foreign, name, kind):
    (foreign / name).unlink(missing_ok=True)
    (foreign / name).mkdir() if kind == "directory" else os.mkfifo(foreign / name)
    for command in ("status", "config"):
        code, _, errors = call(command, foreign)
        assert code in (0, 2), errors
        assert errors.count("\n") == (code == 2)


@pytest.mark.parametrize("is_known", [False, True])
def test_what_a_killed_driver_left_is_folded_into_a_known_run_alone(
    call, foreign, tmp_path, is_known
):
    shutil.copytree(foreign, tmp_path / "alive")
    with closing(sqlite3.connect(tmp_path / "alive" / "study.db")) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("CREATE TABLE latest (x)")
        connection.commit()
        for suffix in ("", "-wal"):
            shutil.copy(tmp_path / "alive" / f"study.db{suffix}", foreign)
    if is_known:
        remember_run(RunFolder(foreign), Settings())
    before = contents(foreign)
    code, _, errors = call("status", foreign)
    assert code == 0, errors
    assert (foreign / "study.db-wal").exists() != is_known
    assert (contents(foreign) == before) != is_known
    with closing(sqlite3.connect(shutil.copy(foreign / "study.db", tmp_path / "copy.db"))) as copy:
        tables = {name for (name,) in copy.execute("SELECT name FROM sqlite_master")}
    assert ("latest" in tables) == is_known


@pytest.fixture
def looked_at(finished, tmp_path, read_only, monkeypatch) -> Path:
    """A finished run in a folder that can only be read, seen from a folder that can be written."""
    shutil.copytree(finished, tmp_path / "archive" / "run")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return read_only(tmp_path / "archive") / "run"


def test_commands_that_only_look_work_in_a_read_only_folder(looked_at, call):
    before = contents(looked_at)
    words = ("status RUN", "inspect RUN", "config RUN", "report RUN", "export RUN --format delta")
    for command in words:
        code, _, errors = call(*(looked_at if word == "RUN" else word for word in command.split()))
        assert code == 0, errors
    assert {file.name for file in Path().iterdir()} == {"report-run.html", "delta.safetensors"}
    assert contents(looked_at) == before


@pytest.mark.parametrize("command", ["resume RUN --trials 9", "compare RUN", "search --out NEW"])
def test_commands_that_write_say_that_a_folder_is_read_only(looked_at, call, command):
    places = {"RUN": looked_at, "NEW": looked_at.parent / "new"}
    code, _, errors = call(*(places.get(word, word) for word in command.split()))
    assert code == 2 and errors.count("\n") == 1
    assert "can be written" in errors or "must be writable" in errors
