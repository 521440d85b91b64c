"""Lease of a study: which driver is refused, takes over or stops."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from autotune.errors import LeaseError
from autotune.problem.job import Progress
from autotune.study.backends.inline import InlineBackend
from autotune.study.checkpoint_file import read_checkpoint
from autotune.study.driver import Driver, DriverOptions
from autotune.study.lease import STALE, Lease, Owner, holder, settle_seconds
from autotune.study.reader import Records
from autotune.utils.processes import process_space

from .table_engine import TableEngine


class Attribute:
    """Attribute of the study that several drivers share."""

    def __init__(self) -> None:
        self.value: Any = None

    def read(self) -> Any:
        return self.value

    def write(self, value: Any) -> None:
        self.value = value


@pytest.fixture
def attribute() -> Attribute:
    return Attribute()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run" / "lease.json"


def lease(file: Path, attribute: Attribute, **seconds: float) -> Lease:
    return Lease(file, attribute.read, attribute.write, **{"settle": 0.01, **seconds})


def written(file: Path, owner: Owner) -> Owner:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(asdict(owner)))
    return owner


def dead_process() -> int:
    """Process ID of a process that has ended."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


def wait_until(holds: Any, seconds: float = 5) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"the condition did not hold within {seconds} s"
        time.sleep(0.01)


def test_stands_in_file_and_attribute_while_it_is_held(file, attribute):
    with lease(file, attribute) as held:
        assert json.loads(file.read_text()) == attribute.value == asdict(held.me)
        assert (held.me.host, held.me.pid) == (socket.gethostname(), os.getpid())
        assert holder(file, None) == holder(file.parent / "none", attribute.value) == held.me
    assert not file.exists()
    assert attribute.value is None


def test_is_given_back_after_an_error(file, attribute):
    with pytest.raises(ZeroDivisionError), lease(file, attribute):
        raise ZeroDivisionError
    assert not file.exists()
    assert attribute.value is None


def test_a_second_driver_is_refused_naming_process_host_and_start(file, attribute):
    with lease(file, attribute) as held:
        with pytest.raises(LeaseError) as refused, lease(file, attribute):
            pass
        start = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(held.me.start))
        for part in (str(os.getpid()), socket.gethostname(), start):
            assert part in str(refused.value)
        held.check()
        assert json.loads(file.read_text())["token"] == held.me.token


@pytest.mark.parametrize("place", ["file", "attribute"])
def test_either_place_alone_keeps_others_out(file, attribute, place):
    """The folder may be a copy, or the study may have moved to another storage."""
    living = replace(Owner.me(), host="elsewhere")
    written(file, living if place == "file" else replace(living, renewed=0.0))
    attribute.write(asdict(living) if place == "attribute" else None)
    with pytest.raises(LeaseError, match="elsewhere"), lease(file, attribute):
        pass


def test_a_lease_whose_process_is_dead_is_taken_over_at_once(file, attribute):
    attribute.write(asdict(written(file, replace(Owner.me(), pid=dead_process()))))
    with lease(file, attribute) as held:
        assert attribute.value == asdict(held.me)


@pytest.mark.parametrize("processes", ["", "another machine", f"{process_space()}0"])
def test_a_dead_number_on_another_machine_or_in_another_container_says_nothing(
    file, attribute, processes
):
    """Containers may have the same host name; earlier versions wrote no space of processes."""
    written(file, replace(Owner.me(), pid=dead_process(), processes=processes))
    with pytest.raises(LeaseError), lease(file, attribute):
        pass


def test_a_lease_whose_number_another_process_has_by_now_is_taken_over_at_once(file, attribute):
    attribute.write(asdict(written(file, replace(Owner.me(), born="long ago"))))
    with lease(file, attribute) as held:
        assert attribute.value == asdict(held.me)


@pytest.mark.parametrize("moved", [False, True])
def test_a_driver_whose_folder_is_moved_or_removed_stops_and_makes_nothing(file, attribute, moved):
    with lease(file, attribute, renew=0.02) as held:
        folder = file.parent
        folder.rename(folder.with_name("moved")) if moved else shutil.rmtree(folder)
        wait_until(lambda: held.is_lost)
        with pytest.raises(LeaseError, match="is gone, so the search stops"):
            held.check()
        time.sleep(0.05)
    assert not folder.exists()


def test_a_lease_that_is_not_renewed_goes_stale(file, attribute):
    old = replace(Owner.me(), host="elsewhere", renewed=time.time() - STALE + 5)
    assert written(file, old).is_alive()
    written(file, replace(old, renewed=time.time() - STALE - 1))
    with lease(file, attribute) as held:
        assert json.loads(file.read_text())["token"] == held.me.token


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}', "null"])
def test_a_damaged_lease_file_is_no_lease(file, attribute, content):
    file.write_text(content)
    with lease(file, attribute):
        assert holder(file, None) is not None


def test_is_renewed_while_it_is_held(file, attribute):
    with lease(file, attribute, renew=0.02) as held:
        first = attribute.value["renewed"]
        wait_until(lambda: attribute.value["renewed"] > first)
        assert attribute.value["start"] == held.me.start
        assert attribute.value["token"] == held.me.token


@pytest.mark.parametrize("place", ["file", "attribute"])
def test_a_driver_that_finds_another_token_stops(file, attribute, place):
    other = replace(Owner.me(), pid=dead_process())
    with lease(file, attribute, renew=0.02) as held:
        written(file, other) if place == "file" else attribute.write(asdict(other))
        wait_until(lambda: held.is_lost)
        with pytest.raises(LeaseError, match=f"lost its study to process {other.pid}"):
            held.check()
    left = json.loads(file.read_text()) if place == "file" else attribute.value
    assert left == asdict(other), "the lease of the other driver must stay"


def test_a_driver_that_lost_its_study_writes_nothing_more(folder, grids):
    other = replace(Owner.me(), host="elsewhere")
    held = Lease(folder.lease, lambda: None, lambda owner: None, settle=0.01, renew=0.02)

    def engine(job):
        yield Progress(1, 0.5, {}, b"one")
        # Written repeatedly, as a renewal at the same moment may overwrite it.
        wait_until(lambda: held.is_lost or not written(folder.lease, other))
        yield Progress(2, 0.6, {}, b"two")

    with held:
        driver = Driver(folder, None, DriverOptions("random", 0, 4, grids), held, trials=2)
        with pytest.raises(LeaseError, match="elsewhere"):
            InlineBackend(engine).run(driver)
    (trial,) = Records(folder, None).trials
    assert trial.curve == (0.5,)
    assert not trial.state.is_finished()
    assert read_checkpoint(folder.checkpoint(0), "it") == ({}, b"one")
    for write in (lambda: driver.write("stage:final", 1), driver.next_job):
        with pytest.raises(LeaseError):
            write()


def test_of_two_that_start_together_the_token_that_stands_wins(file, attribute):
    """Both read before either writes; the last to write keeps the lease."""
    first, refused = lease(file, attribute, settle=0.2), []

    def start() -> None:
        try:
            with first:
                refused.append("nobody")
        except LeaseError as error:
            refused.append(str(error))

    def read_before_the_first_writes() -> Any:
        if not thread.ident:
            thread.start()
            wait_until(lambda: attribute.value is not None)
            return None
        return attribute.value

    thread = threading.Thread(target=start)
    with Lease(file, read_before_the_first_writes, attribute.write, settle=0.2) as second:
        thread.join()
        assert refused == [f"One driver owns a study; {second.me} took {file.parent} first."]
        second.check()
        assert attribute.value["token"] == second.me.token


def test_never_do_two_hold_it(file, attribute):
    together, won = threading.Barrier(4), []

    def start() -> None:
        together.wait()
        try:
            with lease(file, attribute, settle=0.1) as held:
                won.append(held.me.token)
                time.sleep(0.3)
        except LeaseError:
            pass

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) <= 1


def test_an_optuna_study_carries_the_lease(folder, grids):
    records = Records(folder, None, is_writable=True)
    study = records.study
    held = Lease(
        folder.lease,
        lambda: study.user_attrs.get("lease"),
        lambda owner: study.set_user_attr("lease", owner),
    )
    with held:
        assert Records(folder, None).attribute("lease")["token"] == held.me.token
        InlineBackend(TableEngine()).run(
            Driver(folder, None, DriverOptions("random", 0, 4, grids), held, trials=1)
        )
    assert Records(folder, None).attribute("lease") is None


@pytest.mark.parametrize("text", ["soon", "-1", "60", "nan"])
def test_a_settling_time_that_is_none_is_refused(file, attribute, text, monkeypatch):
    monkeypatch.setenv("AUTOTUNE_LEASE_SETTLE", text)
    with pytest.raises(LeaseError, match=f"seconds from 0 to 60, got '{text}'"):
        Lease(file, attribute.read, attribute.write)


def test_the_settling_time_is_a_second_unless_the_environment_says_so(monkeypatch):
    monkeypatch.delenv("AUTOTUNE_LEASE_SETTLE", raising=False)
    assert settle_seconds() == 1.0
    monkeypatch.setenv("AUTOTUNE_LEASE_SETTLE", "5")
    assert settle_seconds() == 5.0


FOREIGN = [
    [],
    [1],
    3,
    "x",
    {"host": 3},
    {"pid": "x"},
    {"pid": 0},
    {"pid": -1},
    {"pid": 10**30},
    {"start": "y"},
    {"start": 1e300},
    {"start": float("nan")},
    {"renewed": "z"},
    {"renewed": 1e300},
    {"renewed": None},
    {"processes": 3},
    {"born": []},
]


@pytest.mark.parametrize("changes", FOREIGN, ids=str)
def test_a_lease_of_foreign_types_is_none(tmp_path, changes):
    file = tmp_path / "lease.json"
    data = {**asdict(Owner.me()), **changes} if isinstance(changes, dict) else changes
    file.write_text(json.dumps(data))
    assert holder(file, None) is None
    assert holder(tmp_path / "none", data) is None


@pytest.mark.parametrize("content", [b"\xff", b"[" * 99_999, b"9" * 6000, b"{"])
def test_a_lease_file_that_is_no_json_is_none(tmp_path, content):
    (tmp_path / "lease.json").write_bytes(content)
    assert holder(tmp_path / "lease.json", None) is None


def test_a_lease_from_the_future_is_stale(tmp_path):
    owner = replace(Owner.me(), host="elsewhere", processes="other", renewed=time.time() + 3600)
    assert not owner.is_alive()


def test_ctrl_c_while_a_lease_settles_leaves_none(file, attribute, monkeypatch):
    """This process may go on, as a notebook does, and would own the study for a minute."""

    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("autotune.study.lease.time.sleep", interrupted)
    with pytest.raises(KeyboardInterrupt), lease(file, attribute):
        pass
    assert not file.exists() and attribute.value is None
