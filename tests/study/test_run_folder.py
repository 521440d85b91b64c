"""Choice of the run folder of a search."""

from __future__ import annotations

import contextlib
import os
import threading

import pytest

from autotune.errors import RunError
from autotune.study.run_folder import RunFolder


@pytest.mark.parametrize(
    ("there", "way_out"),
    [
        (["config.yaml", "study.db"], "continue it with: autotune resume"),
        (["study.db"], "empty the folder yourself"),
        (["notes.txt"], "empty the folder yourself"),
    ],
)
def test_a_folder_that_holds_anything_is_refused_and_left_alone(tmp_path, there, way_out):
    for name in there:
        (tmp_path / name).write_bytes(b"mine")
    for claimed in (False, True):
        with pytest.raises(RunError, match=f"needs a new folder.*{way_out}"):
            RunFolder(tmp_path).claim("") if claimed else RunFolder.new(str(tmp_path), "a:b")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == dict.fromkeys(
        there, b"mine"
    )


def test_a_dangling_link_is_no_new_folder(tmp_path):
    (tmp_path / "run").symlink_to(tmp_path / "nowhere")
    with pytest.raises(RunError, match="needs a new folder"):
        RunFolder.new(str(tmp_path / "run"), "builtin:digits")
    assert not (tmp_path / "nowhere").exists()


def test_of_searches_that_claim_a_folder_at_the_same_time_one_gets_it(tmp_path):
    folder, start, won = RunFolder(tmp_path / "run"), threading.Barrier(8), []

    def claim(text: str) -> None:
        start.wait()
        with contextlib.suppress(RunError):
            folder.claim(text)
            won.append(text)

    threads = [threading.Thread(target=claim, args=(str(at),)) for at in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert won == [folder.config.read_text()]
    assert [path.name for path in folder.path.iterdir()] == ["config.yaml"]


def test_only_files_of_known_trials_are_removed_and_no_link_is_followed(tmp_path):
    folder, outside = RunFolder(tmp_path / "run"), tmp_path / "outside"
    outside.mkdir()
    folder.path.mkdir()
    (outside / "delta.safetensors").write_bytes(b"mine")
    for number in (0, 1, 7):
        folder.write(folder.delta(number), b"delta")
    (folder.delta(1).parent / "notes.txt").write_text("mine")
    (tmp_path / "run" / "trials" / "0002").symlink_to(outside)
    folder.keep_only({0}, known=range(3))
    folder.drop_checkpoint(2)
    left = sorted(str(f.relative_to(tmp_path)) for f in tmp_path.rglob("*") if f.is_file())
    assert left == [
        "outside/delta.safetensors",
        "run/trials/0000/delta.safetensors",
        "run/trials/0001/notes.txt",
        "run/trials/0007/delta.safetensors",
    ]


def test_a_link_to_a_folder_of_others_is_not_written_through(tmp_path):
    folder, outside = RunFolder(tmp_path / "run"), tmp_path / "outside"
    folder.path.mkdir()
    outside.mkdir()
    (folder.path / "trials").symlink_to(outside)
    with pytest.raises(RunError, match=r"has no links, .*trials' is one"):
        folder.write(folder.delta(0), b"delta")
    folder.keep_only(set(), known=range(3))
    assert not [*outside.iterdir()]


def test_a_run_folder_that_is_gone_is_not_made_again(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(RunError, match="is gone, so the search stops"):
        folder.write(folder.delta(0), b"delta")
    assert not folder.path.exists()


@pytest.mark.parametrize("out", ["n" * 300, "file/x", "dangling/x", "a\0b", "missing/" + "n" * 300])
def test_a_folder_that_cannot_be_made_is_refused_at_once(tmp_path, out):
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(RunError, match="A run folder must be writable"):
        RunFolder.new(str(tmp_path / out), "builtin:digits")


@pytest.mark.parametrize(
    "content", [b"[]", b"3", b"null", b'{"a": 1}', b'{"a": []}', b"{", b"\xff", b"[" * 99_999]
)
def test_origins_of_foreign_types_are_refused(tmp_path, content):
    (tmp_path / "origins.json").write_bytes(content)
    with pytest.raises(RunError, match="Origins are a mapping"):
        _ = RunFolder(tmp_path).origins


@pytest.mark.parametrize("name", ["lease.json", "origins.json", "log.jsonl", "study.db"])
def test_a_directory_or_a_pipe_where_a_file_belongs_is_refused(tmp_path, name):
    folder = RunFolder(tmp_path)
    (tmp_path / name).mkdir()
    with pytest.raises(RunError, match="has a file there"):
        folder.require_plain(tmp_path / name)
    (tmp_path / name).rmdir()
    os.mkfifo(tmp_path / name)
    with pytest.raises(RunError, match="has a file there"):
        folder.write(tmp_path / name, "x")
