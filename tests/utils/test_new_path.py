"""Paths at which nothing can be created are refused before anything is computed."""

from __future__ import annotations

import pytest

from autotune.errors import ConfigError
from autotune.utils.new_path import obstacle, require_writable

BAD = [
    "n" * 300,
    "missing/" + "n" * 300,
    "file/x",
    "file/x/y",
    "dangling/x",
    "loop/x",
    "a\0b",
    "n/" * 3000,
]


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")


@pytest.mark.parametrize("path", BAD, ids=lambda path: path[:20])
def test_a_path_that_cannot_be_has_a_short_reason(path, tmp_path):
    before = set(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match="cannot be written") as refused:
        require_writable(path, "The report", "-o")
    assert len(str(refused.value)) < 400
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("path", ["dangling", "loop", "."])
def test_links_that_lead_nowhere_and_folders_are_no_file_to_write(path):
    with pytest.raises(ConfigError, match=r"leads nowhere|directory"):
        require_writable(path, "The report", "-o")


@pytest.mark.parametrize("path", ["file", "new", "new/and/deep"])
def test_a_path_that_can_be_has_no_obstacle(path, tmp_path):
    assert not obstacle(tmp_path / path)
    require_writable(path, "The report", "-o")
