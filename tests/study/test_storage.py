"""Storage of a study: SQLite on any disk, a real PostgreSQL server, and their failures."""

from __future__ import annotations

import gc
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from autotune.errors import DependencyError, LeaseError, RunError
from autotune.study import storage as storages
from autotune.study.backends.inline import InlineBackend
from autotune.study.driver import Driver, DriverOptions, create, require_free
from autotune.study.lease import Lease
from autotune.study.reader import Records
from autotune.study.run_folder import RunFolder
from autotune.study.storage import open_storage
from autotune.utils import filesystems as disks
from autotune.utils.filesystems import disk_is_full, file_system, is_full, warn_of_network

from .table_engine import STEPS, TableEngine


def journal(folder: RunFolder) -> str:
    open_storage(folder, None)
    with closing(sqlite3.connect(folder.database)) as connection:
        return str(connection.execute("PRAGMA journal_mode").fetchone()[0])


def test_a_local_disk_has_a_journal_that_is_written_ahead(tmp_path):
    assert journal(RunFolder(tmp_path)) == "wal"


def test_a_network_disk_has_a_rollback_journal_and_says_so(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(disks, "file_system", lambda path: "nfs4")
    assert journal(RunFolder(tmp_path)) == "delete"
    warn_of_network(tmp_path)
    assert "network file system (nfs4)" in caplog.text


def test_commits_wait_for_the_disk(tmp_path):
    """`synchronous` is 2 (FULL), so records survive a power cut.

    A separate process is used, since the fixtures of these tests disable synchronous writes.
    """
    program = (
        "import sys; from autotune.study.run_folder import RunFolder; from pathlib import Path;"
        "from autotune.study.storage import open_storage;"
        "c = open_storage(RunFolder(Path(sys.argv[1])), None).engine.connect();"
        "print(c.exec_driver_sql('PRAGMA synchronous').scalar())"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True)
    assert done.stdout.strip() == "2"


@pytest.mark.skipif(not Path("/proc/mounts").exists(), reason="mounts are read on Linux")
def test_the_file_system_of_a_folder_is_that_of_its_mount(tmp_path):
    assert file_system(Path("/proc/self")) == "proc"
    assert file_system(tmp_path) not in ("", "proc")


def test_a_driver_that_is_not_installed_is_named(tmp_path):
    with pytest.raises(DependencyError, match=r"oracle storage needs .* not installed"):
        open_storage(RunFolder(tmp_path), "oracle://nobody@localhost/none")


def test_a_study_of_another_format_is_refused(folder):
    Records(folder, None, is_writable=True).study.set_user_attr("format", 2)
    with pytest.raises(RunError, match=r"format 1, .* has format 2"):
        Records(folder, None)


# full disk


def test_a_full_disk_is_an_error_and_the_study_continues_when_there_is_room(
    small_disk, new_run, grids
):
    at = RunFolder(small_disk / "run")
    shutil.copytree(new_run("fresh").path, at.path)
    filler = small_disk / "filler"
    engine = TableEngine()

    def filling(job: Any) -> Iterator[Any]:
        for progress in engine(job):
            if job.number == 2 and progress.step == 2:
                with suppress(OSError), filler.open("wb", buffering=0) as file:
                    while file.write(b"0" * 4096):
                        pass
            yield progress

    with pytest.raises(Exception) as full, driver_at(at, None, grids, trials=5) as driver:  # noqa: PT011
        InlineBackend(filling).run(driver)
    assert is_full(full.value)
    assert "Make room" in str(disk_is_full(at.path))
    before = [t for t in range(5) if ("trial " + str(t), 0, 1) in engine.calls]
    filler.unlink()
    (at.path / "lease.json").unlink(missing_ok=True)  # as if its process had died
    Records(at, None, is_writable=True).study.set_user_attr("lease", None)
    with driver_at(at, None, grids, trials=5) as driver:
        InlineBackend(engine).run(driver)
        assert [t.state_name for t in driver.trials] == ["complete"] * 5
    assert before == [0, 1, 2]
    assert [name for name in engine.names if name in ("trial 0", "trial 1")] == [
        "trial 0",
        "trial 1",
    ]


# a database that another program has locked


@contextmanager
def locked(database: Path) -> Iterator[sqlite3.Connection]:
    made = sqlite3.connect(database, isolation_level=None, check_same_thread=False)
    with closing(made) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield connection
        if connection.in_transaction:
            connection.execute("ROLLBACK")


@pytest.fixture(params=["in the folder", "elsewhere"])
def url(request, tmp_path, folder, problem) -> str | None:
    if request.param == "in the folder":
        return None
    url = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    create(folder, url, problem, {"identity": {"metric": "accuracy"}})
    return url


def database_of(folder: RunFolder, url: str | None) -> Path:
    return Path(url.removeprefix("sqlite:///")) if url else folder.database


def test_a_lock_that_is_released_is_waited_for(folder, url, grids, monkeypatch, caplog):
    monkeypatch.setattr(storages, "BUSY", 0.05)
    monkeypatch.setattr(storages, "PAUSE", 0.05)
    with driver_at(folder, url, grids, trials=2) as driver:
        InlineBackend(TableEngine()).run(driver)
        with locked(database_of(folder, url)) as connection:
            threading.Timer(0.3, lambda: connection.execute("ROLLBACK")).start()
            driver.write("name", 1)
        assert driver.attribute("name") == 1
        assert caplog.text.count("does not answer (database is locked)") == 1


def test_a_lock_that_stays_is_an_error_after_one_wait_and_loses_nothing(
    folder, url, grids, monkeypatch
):
    """What ends a search also writes; it does not wait again."""
    monkeypatch.setattr(storages, "BUSY", 0.05)
    monkeypatch.setattr(storages, "PATIENCE", 0.5)
    with driver_at(folder, url, grids, trials=3) as driver:
        InlineBackend(TableEngine()).run(driver)
        with locked(database_of(folder, url)):
            began = time.monotonic()
            for _ in range(3):
                with pytest.raises(RunError, match=r"\(database is locked\)\. .*Close the program"):
                    driver.write("name", 1)
            assert time.monotonic() - began < 1.5
    trials = Records(folder, url).trials
    assert [trial.state_name for trial in trials] == ["complete"] * 3
    with driver_at(folder, url, grids, trials=3) as driver:
        driver.write("name", 2)


# two searches at the same time


def test_tables_that_two_searches_create_at_once_are_waited_for(tmp_path):
    url, opened, failures = f"sqlite:///{tmp_path / 'new.db'}", [], []

    def open_it() -> None:
        try:
            opened.append(open_storage(RunFolder(tmp_path), url))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 6, failures


# a quota


def test_a_quota_keeps_the_best_and_what_fits(folder, driving):
    with driving(trials=8, keep="all", disk=40) as driver:
        InlineBackend(TableEngine()).run(driver)
        kept = {int(at.name) for at in (folder.path / "trials").iterdir()}
        ranked = [record.number for record in driver.ranked()]
    assert ranked[0] in kept
    assert kept == set(ranked[: len(kept)])
    assert sum(f.stat().st_size for f in (folder.path / "trials").rglob("*.safetensors")) <= 40


def test_a_quota_never_deletes_the_best(folder, driving):
    with driving(trials=6, keep="all", disk=1) as driver:
        InlineBackend(TableEngine()).run(driver)
        kept = [int(at.name) for at in (folder.path / "trials").iterdir()]
        assert kept == [driver.ranked()[0].number]


# a server


class Server:
    """A PostgreSQL that listens on a free port of this machine."""

    def __init__(self, at: Path, programs: Path) -> None:
        self.at, self.programs = at, programs
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.call("initdb", "-D", at, "-A", "trust", "-U", "postgres", "--no-sync")

    def url(self, database: str = "postgres") -> str:
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/{database}"

    def call(self, program: str, *arguments: object) -> None:
        command = [str(self.programs / program), *map(str, arguments)]
        user = {"user": "postgres", "group": "postgres"} if os.getuid() == 0 else {}
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=self.at.parent, check=False, **user
        )
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        options = f"-p {self.port} -k {self.at} -c listen_addresses=127.0.0.1 -c fsync=off"
        log = self.at / "log"
        self.call("pg_ctl", "-D", self.at, "-o", options, "-l", log, "-w", "start")

    def stop(self) -> None:
        self.call("pg_ctl", "-D", self.at, "-m", "immediate", "-w", "stop")

    def new_database(self, name: str) -> str:
        self.call("createdb", "-h", "127.0.0.1", "-p", self.port, "-U", "postgres", name)
        return self.url(name)


def programs() -> Path | None:
    """Folder of the programs of PostgreSQL; None if it is not installed."""
    candidates = [shutil.which("initdb"), *Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    return next((Path(path).resolve().parent for path in candidates if path), None)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    pytest.importorskip("psycopg", reason="PostgreSQL's driver is in the extra `postgres`")
    folder = programs()
    if folder is None:
        pytest.skip("PostgreSQL's programs (Debian's package postgresql) are not installed")
    at = Path(f"/tmp/autotune-postgres-{os.getpid()}")  # a socket has a short path
    at.mkdir()
    if os.getuid() == 0:
        shutil.chown(at, "postgres", "postgres")
    try:
        running = Server(at, folder)
        running.start()
        yield running
        running.stop()
    finally:
        shutil.rmtree(at)


@contextmanager
def driver_at(folder: RunFolder, url: str | None, grids: Any, *, trials: int) -> Iterator[Driver]:
    study = Records(folder, url, is_writable=True).study
    held = Lease(
        folder.lease,
        lambda: study.user_attrs.get("lease"),
        lambda owner: study.set_user_attr("lease", owner),
    )
    with held:
        options = DriverOptions("random", seed=0, steps=STEPS, grids=grids, pruner="none")
        yield Driver(folder, url, options, held, trials=trials)


@pytest.mark.server
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # connections closed by a server that died
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
class TestServer:
    @pytest.fixture(autouse=True)
    def _collected(self) -> Iterator[None]:
        """Collect connections of a dead server here, where their warnings are expected."""
        yield
        gc.collect()

    def begin(self, folder: RunFolder, url: str, problem: Any) -> None:
        folder.path.mkdir(parents=True)
        create(folder, url, problem, {"identity": {"metric": "accuracy"}})

    def test_a_study_on_a_server_is_that_on_sqlite(
        self, server, tmp_path, folder, problem, grids, driving
    ):
        url, at = server.new_database("same"), RunFolder(tmp_path / "server")
        self.begin(at, url, problem)
        with driver_at(at, url, grids, trials=6) as driver:
            InlineBackend(TableEngine()).run(driver)
            there = [(t.number, t.plan, t.value, t.curve) for t in driver.trials]
        assert not at.database.exists()
        with driving(trials=6) as driver:
            InlineBackend(TableEngine()).run(driver)
            assert [(t.number, t.plan, t.value, t.curve) for t in driver.trials] == there

    def test_a_server_that_goes_away_for_ten_seconds_is_waited_for(
        self, server, tmp_path, problem, grids, caplog
    ):
        """The server stops in the middle of a trial; afterwards every trial is recorded once."""
        url, at = server.new_database("away"), RunFolder(tmp_path / "server")
        self.begin(at, url, problem)
        engine = TableEngine()

        def interrupted(job: Any) -> Iterator[Any]:
            for progress in engine(job):
                if job.number == 1 and progress.step == 2:
                    server.stop()
                    threading.Timer(10, server.start).start()
                yield progress

        with driver_at(at, url, grids, trials=4) as driver:
            InlineBackend(interrupted).run(driver)
            trials = driver.trials
        assert "does not answer" in caplog.text
        assert [(t.number, t.state_name, len(t.curve)) for t in trials] == [
            (n, "complete", STEPS) for n in range(4)
        ]
        assert engine.names == [f"trial {n}" for n in range(4)]

    def test_a_server_that_stays_away_is_an_error(
        self, server, tmp_path, problem, grids, monkeypatch
    ):
        monkeypatch.setattr(storages, "PATIENCE", 1.0)
        url, at = server.new_database("gone"), RunFolder(tmp_path / "server")
        self.begin(at, url, problem)
        with driver_at(at, url, grids, trials=4) as driver:
            server.stop()
            try:
                with pytest.raises(RunError, match="must answer within 1 s"):
                    driver.next_job()
            finally:
                server.start()

    def test_two_folders_on_one_storage_have_one_driver(self, server, tmp_path, problem, grids):
        url, at = server.new_database("two"), RunFolder(tmp_path / "first")
        self.begin(at, url, problem)
        with driver_at(at, url, grids, trials=2) as driver:
            me = driver.lease.me
            pattern = rf"owned by process {os.getpid()} on {me.host} since \d+-"
            with pytest.raises(LeaseError, match=pattern):
                require_free(RunFolder(tmp_path / "second"), url)
            other = RunFolder(tmp_path / "third")
            other.path.mkdir()
            with (
                pytest.raises(LeaseError, match=f"process {os.getpid()}"),
                driver_at(other, url, grids, trials=2),
            ):
                pass
        with pytest.raises(RunError, match="holds one study"):
            require_free(RunFolder(tmp_path / "second"), url)
