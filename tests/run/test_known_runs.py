"""Addresses in a run folder count for runs that this user began, and no others."""

from __future__ import annotations

import os

import pytest

from autotune.errors import RunError
from autotune.run.known_runs import allowed, is_known, remember_run
from autotune.run.settings import Settings
from autotune.study.run_folder import RunFolder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "run").mkdir()
    return RunFolder(tmp_path / "run")


REMOTE = Settings(storage="postgresql://me:secret@host/db", address="host:6379", backend="ray")


@pytest.mark.parametrize("name", ["storage", "address"])
def test_an_address_that_only_the_folder_names_is_refused(folder, name):
    with pytest.raises(RunError, match=f"does not decide what is connected to.*--{name}"):
        allowed(folder, REMOTE, name)
    assert allowed(folder, REMOTE, name, "named now") == "named now"


def test_a_refusal_shows_no_password(folder):
    with pytest.raises(RunError) as refused:
        allowed(folder, REMOTE, "storage")
    assert "secret" not in str(refused.value)


def test_addresses_of_a_search_that_began_here_count(folder):
    remember_run(folder, REMOTE)
    assert is_known(folder)
    for name in ("storage", "address"):
        assert allowed(folder, REMOTE, name) == getattr(REMOTE, name)


def test_another_address_in_a_folder_that_was_begun_here_is_refused(folder):
    remember_run(folder, Settings(storage="sqlite:///a.db"))
    with pytest.raises(RunError, match=r"'b.db'"):
        allowed(folder, Settings(storage="sqlite:///b.db"), "storage")


def test_a_copy_of_a_run_is_not_known(folder, tmp_path):
    remember_run(folder, REMOTE)
    assert not is_known(RunFolder(tmp_path / "copy"))
    (tmp_path / "link").symlink_to(folder.path)
    assert is_known(RunFolder(tmp_path / "link"))


@pytest.mark.parametrize("address", [None, "auto", "local"])
def test_an_address_of_this_machine_needs_no_record(folder, address):
    settings = Settings(backend="ray", address=address)
    assert allowed(folder, settings, "address") == address
    assert allowed(folder, settings, "storage") is None


@pytest.mark.parametrize("content", [b"", b"[1]", b"\xff", b"{}", b'{"run": 3}', b"[" * 10**5])
def test_a_record_that_is_damaged_is_none(folder, tmp_path, content):
    remember_run(folder, REMOTE)
    (record,) = (tmp_path / "cache" / "runs").iterdir()
    record.write_bytes(content)
    assert not is_known(folder)


def test_a_cache_folder_that_cannot_be_written_is_reported(folder, monkeypatch, tmp_path, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path / "file"))
    remember_run(folder, REMOTE)
    assert "cannot be recorded" in caplog.text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_a_record_of_another_user_is_none(folder, tmp_path):
    remember_run(folder, REMOTE)
    (record,) = (tmp_path / "cache" / "runs").iterdir()
    os.chown(record, 12345, 12345)
    assert not is_known(folder)


def test_a_record_that_is_a_pipe_is_none(folder, tmp_path):
    """Reading it would wait."""
    remember_run(folder, REMOTE)
    (record,) = (tmp_path / "cache" / "runs").iterdir()
    record.unlink()
    os.mkfifo(record)
    assert not is_known(folder)
