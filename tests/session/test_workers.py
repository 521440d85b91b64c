"""Where trials run: GPUs in turn, what nodes complain of, what a worker may be told."""

from __future__ import annotations

import pytest

from autotune.errors import ConfigError
from autotune.run.settings import read_settings
from autotune.session.checks import require_one_gpu
from autotune.session.workers import complaint, gpus_in_turn, versions
from autotune.tasks.part import Part
from autotune.utils.user_code import import_shipped, ship_sources


@pytest.mark.parametrize(
    ("visible", "n", "share", "expected"),
    [
        ("0,1", 2, None, ["0", "1"]),
        ("0,1", 3, None, ["0", "1", "0"]),
        ("5,7", 4, 0.5, ["5", "5", "7", "7"]),
        ("0", 4, 0.25, ["0", "0", "0", "0"]),
        ("GPU-a,GPU-b", 2, 1, ["GPU-a", "GPU-b"]),
        ("0,1", 2, 0, []),
        ("-1", 2, None, []),
    ],
)
def test_local_workers_takegpus_in_turn(monkeypatch, visible, n, share, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpus_in_turn(n, share) == expected


def test_more_workers_than_gpus_is_reported(monkeypatch, caplog):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    gpus_in_turn(2, None)
    assert "2 workers share 1 GPUs" in caplog.text


def test_nodes_alike_do_not_complain(tmp_path):
    assert complaint(versions(), [tmp_path]) == ""
    assert "ray" in versions()


def test_a_node_with_another_version_or_without_the_data_complains(tmp_path):
    lost = tmp_path / "lost.png"
    message = complaint({**versions(), "optuna": "1.0", "unheard": "2"}, [lost])
    assert f"has optuna {versions()['optuna']} instead of 1.0" in message
    assert "unheard (not installed) instead of 2" in message
    assert f"lacks {lost} (copy the data there, or give --ship-data)" in message


def test_sources_are_shipped_by_the_names_that_pickles_use(tmp_path, monkeypatch):
    """A file by its digest, a module of the working folder by its own name, no installed one."""
    (tmp_path / "here").mkdir()
    (tmp_path / "net.py").write_text("def make(): ...")
    (tmp_path / "here" / "data_of_mine.py").write_text("def make(): ...")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.syspath_prepend(tmp_path / "here")
    to = tmp_path / "there"
    to.mkdir()
    names = ship_sources([str(tmp_path / "net.py"), "data_of_mine", "json"], to)
    assert sorted(path.name for path in to.iterdir()) == sorted(
        [f"{names[0]}.py", "data_of_mine.py"]
    )
    assert names[1:] == ["data_of_mine", "json"]
    monkeypatch.syspath_prepend(to)
    import_shipped(names)


def test_what_only_some_backends_understand_is_checked():
    assert read_settings({}).where == "inline"
    assert read_settings({"workers": 3}).where == "processes"
    assert read_settings({"backend": "ray"}).n_workers == 2
    assert read_settings({"disk": "1.5GB"}).disk_bytes == 1_500_000_000
    for wrong in (
        {"address": "auto"},
        {"ship_data": True},
        {"backend": "inline", "workers": 2},
        {"disk": "0kB"},
        {"backend": "slurm"},
    ):
        with pytest.raises(ConfigError):
            read_settings(wrong)


@pytest.mark.parametrize("gpus", [1.5, 2])
def test_more_than_one_gpu_per_trial_is_refused(gpus):
    rule = f"one GPU at most, got --gpus-per-trial {gpus}. Leave it out"
    with pytest.raises(ConfigError, match=rule):
        require_one_gpu(read_settings({"gpus_per_trial": gpus, "backend": "ray"}))
    require_one_gpu(read_settings({"gpus_per_trial": 1}))
    require_one_gpu(read_settings({}))


def test_a_part_travels_as_arrays_that_may_be_shared():
    """Large inputs leave the pickle as buffers, and may come back from memory that is read-only."""
    import pickle

    import numpy as np
    import torch

    part = Part(torch.rand(20, 3), np.arange(20))
    buffers: list[pickle.PickleBuffer] = []
    content = pickle.dumps(part, protocol=5, buffer_callback=buffers.append)
    assert len(content) < 500
    back = pickle.loads(content, buffers=[bytes(b.raw()) for b in buffers])
    assert torch.equal(back.inputs, part.inputs)
    assert (back.labels == part.labels).all()
    assert back.labels.flags.writeable
