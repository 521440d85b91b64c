"""Where values are kept: found again as they were, or not at all."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from autotune.training.prefix.cache_stores import NAMES, STALE, Memory, Shelf

CPU = torch.device("cpu")
KINDS = {
    "memory": lambda folder, limit: Memory(limit, CPU),
    "shelf": lambda folder, limit: Shelf(folder, limit),
}


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


def put(place, name, value):
    with place.making(name, tuple(value.shape), value.dtype) as made:
        made.copy_(value)


def test_what_was_made_is_found(kind, tmp_path):
    place, value = kind(tmp_path, 10**6), torch.randn(5, 3)
    assert place.find("a") is None and "a" not in place
    put(place, "a", value)
    assert torch.equal(place.find("a"), value) and "a" in place


def test_what_was_not_finished_is_not_found(kind, tmp_path):
    place = kind(tmp_path, 10**6)
    with pytest.raises(KeyError), place.making("a", (3,), torch.float32):
        raise KeyError
    assert place.find("a") is None
    assert list(tmp_path.iterdir()) == []


def test_the_one_used_longest_ago_makes_room(kind, tmp_path):
    place, value = kind(tmp_path, 2000), torch.zeros(200)
    for name in "abc":
        put(place, name, value)
        time.sleep(0.01)
        place.find("a")
    fresh = kind(tmp_path, 2000) if isinstance(place, Shelf) else place
    assert [fresh.find(name) is not None for name in "abc"] == [True, False, True]


@pytest.mark.parametrize("dtype", NAMES, ids=str)
def test_a_file_is_plain_safetensors(tmp_path, dtype):
    value = torch.arange(6).reshape(2, 3).to(dtype)
    put(Shelf(tmp_path, 10**6), "a", value)
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert torch.equal(file.get_tensor("values"), value)
    entry = Shelf(tmp_path, 10**6).find("a")
    assert torch.equal(entry, value) and entry.dtype == dtype


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_never_taken(tmp_path_factory, data):
    """Cut anywhere, or one bit changed anywhere: it is not there, and makes way."""
    folder = tmp_path_factory.mktemp("shelf")
    put(Shelf(folder, 10**6), "a", torch.randn(40))
    path = folder / "a.safetensors"
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        header = 8 + int.from_bytes(content[:8], "little")
        at = data.draw(st.integers(header, len(content) - 1))
        content[at] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    shelf = Shelf(folder, 10**6)
    assert shelf.find("a") is None
    assert "a" not in shelf


def test_what_others_remove_stays_for_who_has_it_open(tmp_path):
    shelf = Shelf(tmp_path, 10**6)
    put(shelf, "a", torch.ones(3))
    entry = shelf.find("a")
    (tmp_path / "a.safetensors").unlink()
    assert torch.equal(entry, torch.ones(3)) and shelf.find("a") is entry


def test_what_nobody_finished_goes_after_a_day(tmp_path):
    old, new = tmp_path / ".a.123", tmp_path / ".b.456"
    for file in (old, new):
        file.write_bytes(b"x")
    os.utime(old, (0, time.time() - STALE - 1))
    put(Shelf(tmp_path, 10**6), "c", torch.ones(3))
    assert (old.exists(), new.exists()) == (False, True)


def as_of_another(file: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file to another user")
    os.chown(file, 12345, 12345)


def in_a_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def in_a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize("put_there", [as_of_another, in_a_pipe, in_a_folder])
def test_what_is_no_file_of_the_user_is_neither_read_nor_replaced(tmp_path, put_there):
    put(Shelf(tmp_path, 10**6), "a", torch.ones(3))
    file = tmp_path / "a.safetensors"
    put_there(file)
    before = file.stat()
    shelf = Shelf(tmp_path, 1)
    assert shelf.find("a") is None
    with pytest.raises(OSError, match="no file of yours"):
        put(shelf, "a", torch.zeros(3))
    put(shelf, "b", torch.zeros(3))  # makes room
    assert (file.stat().st_uid, file.stat().st_mtime_ns) == (before.st_uid, before.st_mtime_ns)


def test_a_link_in_place_of_an_unfinished_file_is_not_written_through(tmp_path):
    (tmp_path / "elsewhere").write_text("another's")
    (tmp_path / f".a.{os.getpid()}").symlink_to(tmp_path / "elsewhere")
    put(Shelf(tmp_path, 10**6), "a", torch.ones(3))
    assert (tmp_path / "elsewhere").read_text() == "another's"


def test_damaged_values_are_said(tmp_path, caplog):
    put(Shelf(tmp_path, 10**6), "a", torch.ones(3))
    (tmp_path / "a.safetensors").write_bytes(b"\xff" * 100)
    with caplog.at_level("INFO", "autotune"):
        assert Shelf(tmp_path, 10**6).find("a") is None
    assert "are damaged and will be computed again" in caplog.text


def _make(folder: Path, log: Path) -> None:
    shelf = Shelf(folder, 10**6)
    with shelf.alone("a"):
        if shelf.find("a") is None:
            with log.open("a") as file:
                file.write("made\n")
            time.sleep(0.2)
            put(shelf, "a", torch.ones(3))


@pytest.mark.slow
def test_of_several_processes_one_makes_it(tmp_path):
    context = multiprocessing.get_context("spawn")
    log = tmp_path / "log"
    workers = [context.Process(target=_make, args=(tmp_path / "shelf", log)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert log.read_text() == "made\n"


def test_a_header_says_what_is_in_it(tmp_path):
    put(Shelf(tmp_path, 10**6), "a", torch.zeros(2, 3))
    content = (tmp_path / "a.safetensors").read_bytes()
    about = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert about["values"] == {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


def test_where_room_cannot_be_reserved_it_is_written(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "posix_fallocate")
    value = torch.randn(50)
    put(Shelf(tmp_path, 10**6), "a", value)
    assert torch.equal(Shelf(tmp_path, 10**6).find("a"), value)
