"""Every example runs, at small size."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from autotune.tasks.python import as_task

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.parametrize("name", ["first_search", "own_network"])
def test_example_runs_and_tells_a_plan(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main = runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]
    main(str(tmp_path / "run"), trials=2, epochs=2)
    assert "Plan: " in capsys.readouterr().out
    assert (tmp_path / "run" / "best" / "delta.safetensors").is_file()


def test_a_policy_is_learned_and_started_from(capsys: pytest.CaptureFixture[str]) -> None:
    main = runpy.run_path(str(EXAMPLES / "reuse_policy.py"))["main"]
    main(trials=2, epochs=1)
    told = capsys.readouterr().out
    assert "From nothing: first plan" in told and "From what it learned: first plan" in told


REAL = [("keywords", "res8", "digits", "res8"), ("text", "model", "questions", "aidreams260k")]
"""Examples on real weights: file, its network's and its data's function, the weights' name."""


@pytest.fixture
def little_data(data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`$AUTOTUNE_DATA` with the real weights, and of the data four examples a class and part."""
    for file in data_folder.glob("*.safetensors"):
        (tmp_path / file.name).symlink_to(file)
    for name in ("fsdd", "trec"):
        with np.load(data_folder / f"{name}.npz") as whole:
            arrays = dict(whole)
        for part in ("train", "val", "test"):
            labels = arrays[f"{part}_y"]
            rows = np.concatenate([np.flatnonzero(labels == c)[:4] for c in np.unique(labels)])
            arrays.update({k: arrays[k][rows] for k in arrays if k.startswith(f"{part}_")})
        np.savez(tmp_path / name, **arrays)
    monkeypatch.setenv("AUTOTUNE_DATA", str(tmp_path))


@pytest.mark.usefixtures("little_data")
@pytest.mark.parametrize("name", [name for name, *_ in REAL])
def test_example_on_real_weights_tells_a_plan(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main = runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]
    main(str(tmp_path / "run"), trials=2, epochs=1)
    assert "Plan: " in capsys.readouterr().out
    assert (tmp_path / "run" / "best" / "delta.safetensors").is_file()


@pytest.mark.parametrize(("name", "network", "data", "weights"), REAL)
def test_example_computes_what_the_published_network_does(
    name: str, network: str, data: str, weights: str, data_folder: Path
) -> None:
    example = runpy.run_path(str(EXAMPLES / f"{name}.py"))
    task = as_task(example[data](), name, None)
    published = runpy.run_path(str(data_folder / "models.py"))["load"](weights, len(task.classes))
    mine = example[network]()
    head = published.get_submodule(published.head).state_dict()
    mine.get_submodule(published.head).load_state_dict(head)
    inputs = task.train.inputs[:8]
    with torch.no_grad():
        torch.testing.assert_close(mine.eval()(inputs), published.eval()(inputs))


@pytest.mark.parametrize("name", [name for name, *_ in REAL])
def test_example_without_its_data_says_what_is_missing(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AUTOTUNE_DATA", raising=False)
    with pytest.raises(SystemExit, match="AUTOTUNE_DATA must name the folder with"):
        runpy.run_path(str(EXAMPLES / f"{name}.py"))


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_example_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 60


def test_a_mask_freezes_a_network_without_autotune(capsys: pytest.CaptureFixture[str]) -> None:
    """Marked parameters alone train, and of them the marked weights alone."""
    source = (EXAMPLES / "use_mask.py").read_text()
    assert "import autotune" not in source and "from autotune" not in source
    freeze = runpy.run_path(str(EXAMPLES / "use_mask.py"))["freeze"]
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    part = torch.tensor([[True, False], [False, False]])
    mask = {"0.weight": part, "0.bias": torch.ones(2).bool(), "1.weight": torch.zeros(2, 2).bool()}
    assert freeze(network, mask) == ["0.weight", "0.bias"]
    network(torch.ones(3, 2)).sum().backward()
    assert (network[0].weight.grad != 0).equal(part)
    assert network[0].bias.grad.all() and network[1].weight.grad is None
