"""Choice of the run folder of a search."""

from __future__ import annotations

import pytest

from autotune.errors import RunError
from autotune.study.run_folder import RunFolder

LEFT = [[], ["study.db"], ["study.db", "prepared.safetensors", ".config.yaml.x1"]]


@pytest.mark.parametrize("left", LEFT)
def test_a_search_that_was_killed_before_it_began_leaves_its_folder_free(tmp_path, left):
    for name in left:
        (tmp_path / name).write_bytes(b"half")
    folder = RunFolder.new(str(tmp_path), "builtin:digits")
    assert folder.path == tmp_path and not [*tmp_path.iterdir()]


@pytest.mark.parametrize("there", [["config.yaml", "study.db"], ["study.db", "notes.txt"]])
def test_any_other_folder_that_exists_is_refused_and_left_alone(tmp_path, there):
    for name in there:
        (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(RunError, match="needs a new folder"):
        RunFolder.new(str(tmp_path), "builtin:digits")
    assert {path.name for path in tmp_path.iterdir()} == set(there)
