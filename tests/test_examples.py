"""Every example runs, at small size."""

from __future__ import annotations

import ast
import json
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autotune.run.notebook import Study
from autotune.tasks.python import as_task

EXAMPLES = Path(__file__).parent.parent / "examples"
QUICK: dict[str, Any] = {"epochs": 1, "batch_size": 128, "bnstats": "off"}
SMALL: dict[str, Any] = {**QUICK, "references": False}
FEW: dict[str, Any] = {**SMALL, "strategy": "random", "trials": 1}


def main_of(name: str) -> Any:
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]


@pytest.mark.parametrize(
    "name", [pytest.param("first_search", marks=pytest.mark.pages), "own_network"]
)
def test_example_runs_and_reports_a_plan(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main_of(name)(str(tmp_path / "run"), trials=1, **QUICK)
    assert "Plan: " in capsys.readouterr().out
    assert (tmp_path / "run" / "best" / "delta.safetensors").is_file()


@pytest.mark.pages
def test_a_policy_is_learned_and_started_from(capsys: pytest.CaptureFixture[str]) -> None:
    main_of("reuse_policy")(trials=1, **QUICK)
    output = capsys.readouterr().out
    assert "From a new policy: first" in output and "From a trained policy: first" in output


@pytest.mark.pages
def test_images_in_folders_are_drawn_or_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a folder it draws one, which is gone afterwards; one that is given stays."""
    example = runpy.run_path(str(EXAMPLES / "own_images.py"))
    example["main"](None, str(tmp_path / "drawn"), **FEW)
    (tmp_path / "pictures").mkdir()
    example["draw"](str(tmp_path / "pictures"), each=8)
    example["main"](str(tmp_path / "pictures"), str(tmp_path / "taken"), **FEW)
    output = capsys.readouterr().out
    assert [output.count(f"An image of {k}: ") for k in ("checks", "columns", "rows")] == [2, 2, 2]
    assert not Path(Study(tmp_path / "drawn").settings.task.partition(":")[2]).exists()
    assert len([*tmp_path.glob("pictures/*/*.png")]) == 24


@pytest.mark.pages
def test_a_vision_transformer_is_tuned_in_its_own_units(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main_of("vit")(str(tmp_path / "run"), **FEW)
    study = Study(tmp_path / "run")
    units = [u for u in study.problem.units if u.startswith("encoder.layers.encoder_layer_")]
    assert len(units) == 4 and "class_token" in study.problem.units
    offered = {choice.label.partition("-")[0] for choice in study.problem.choices[units[0]]}
    assert {"lowrank", "res_prefix", "res_prompt"} <= offered
    assert f"Plan: {study.best.plan}" in capsys.readouterr().out


@pytest.mark.pages
def test_policy_and_chance_get_as_many_trials_and_the_same_budget(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main_of("policy_or_random")(str(tmp_path), trials=1, **QUICK)
    output = capsys.readouterr().out
    studies = {name: Study(tmp_path / name) for name in ("policy", "random")}
    for name, study in studies.items():
        assert len(study.trials) == 1 and study.settings.strategy == name
        assert f"{name}: 1 trials" in output and str(study.best.plan) in output
        assert f"with {study.best.cost.parameters:,} parameters" in output
    assert studies["policy"].problem.budget == studies["random"].problem.budget


@pytest.mark.pages
def test_greedy_begins_with_a_profile_that_is_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main_of("greedy_profile")(str(tmp_path), trials=2, **SMALL)
    alone, greedy = Study(tmp_path / "profile"), Study(tmp_path / "greedy")
    assert "lowrank-2" in (tmp_path / "profile" / "profile.html").read_text()
    before = [(trial.plan, trial.value) for trial in alone.trials]
    assert [(trial.plan, trial.value) for trial in greedy.trials][: len(before)] == before
    assert f"Plan: {greedy.best.plan}" in capsys.readouterr().out


@pytest.mark.pages
@pytest.mark.ray
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # Ray's own sockets and log files
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_search_runs_on_a_cluster_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main_of("on_ray")("local", str(tmp_path / "run"), **{**SMALL, "trials": 2})
    output, study = capsys.readouterr().out, Study(tmp_path / "run")
    assert "Trial 1: complete" in output and "Plan: " in output
    assert (study.settings.backend, study.settings.workers) == ("ray", 2)


@pytest.mark.pages
@pytest.mark.processes
def test_a_killed_search_is_gone_on_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The trial that had ended before is not begun again."""
    main_of("kill_and_resume")(str(tmp_path / "run"), epochs=1)
    killed, resumed, _ = capsys.readouterr().out.splitlines()
    assert killed.startswith("Killed, the search is interrupted: trial 0 complete")
    assert resumed.startswith("Resumed, it is complete: trial 0 complete, trial 1 ")
    log = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    starts = [e["number"] for e in map(json.loads, log) if e["kind"] == "start"]
    assert starts.count(0) == 1 and set(starts) == {0, 1, 2}


@pytest.mark.pages
def test_peft_computes_what_was_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("peft")
    main_of("export_peft")(str(tmp_path), **FEW)
    output = capsys.readouterr().out
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    assert "lowrank" in output
    assert float(output.partition("differ by ")[2].split()[0]) < 1e-4


@pytest.mark.pages
def test_many_tasks_answer_together_as_each_by_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main_of("many_tasks")(str(tmp_path), **FEW)
    *_, inverted, rotated, mixed = capsys.readouterr().out.splitlines()
    answers = [ast.literal_eval(line.partition(": ")[2]) for line in (inverted, rotated, mixed)]
    assert answers[0] != answers[1]
    assert answers[2] == answers[0][:4] + answers[1][4:]


@pytest.mark.slow
def test_an_own_strategy_stays_within_the_budget(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever it proposes; and once two were drawn, one parameter at a time is another."""
    main_of("own_strategy")(trials=4, epochs=1)
    *trials, best = capsys.readouterr().out.splitlines()
    costs = [re.findall(r"[\d,]{3,}(?= of|:)", line.replace(",", "")) for line in trials]
    assert len(costs) == 4 and all(int(cost) <= int(room) for cost, room in costs)
    values = [float(line.split()[0]) for line in trials]
    assert best.startswith(f"Best: {max(values):.3f}, ")


@pytest.mark.pages
def test_callbacks_run_every_epoch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = {**SMALL, "trials": 2, "epochs": 2}
    main_of("callbacks")(str(tmp_path / "run"), **few)
    output, study = capsys.readouterr().out, Study(tmp_path / "run")
    for number in (0, 1):
        assert len(re.findall(rf"^trial {number} ▇", output, re.MULTILINE)) == 2
    best = max(trial.value or 0 for trial in study.trials)
    assert f"seen {best:.3f}" in output


@pytest.mark.pages
def test_the_notebook_runs_and_shows_something_after_its_cells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a kernel runs it: an expression that ends a cell is shown."""
    names: dict[str, Any] = {}
    shown: list[Any] = []
    monkeypatch.setattr(sys, "displayhook", shown.append)
    for cell in cells():
        for statement in ast.parse("".join(cell["source"])).body:
            exec(compile(ast.Interactive([statement]), "cell", "single"), names)
        if "parameters" in cell["metadata"].get("tags", ()):
            names |= {"out": str(tmp_path / "run"), "settings": FEW}
    study, front, network, table, answers, state = shown
    assert f"{study.best.cost.parameters:,} parameters" in study._repr_html_()
    assert state == "complete"
    assert front.data and network.data and len(table) == 1
    assert len(answers) == 8


def test_the_notebook_is_one_and_has_no_outputs() -> None:
    nbformat = pytest.importorskip("nbformat")
    nbformat.validate(nbformat.read(EXAMPLES / "notebook.ipynb", as_version=4))
    assert all(cell["outputs"] == [] and not cell["execution_count"] for cell in cells())


def cells() -> list[dict[str, Any]]:
    """The notebook's cells of code."""
    notebook = json.loads((EXAMPLES / "notebook.ipynb").read_text())
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_the_table_of_examples_names_every_file_once() -> None:
    table = (EXAMPLES / "README.md").read_text()
    named = re.findall(r"\]\(([^)\s]+)\)", table)
    files = [path.name for path in EXAMPLES.iterdir() if path.is_file()]
    assert sorted(named) == sorted(set(files) - {"README.md"})


REAL = [("keywords", "res8", "digits", "res8"), ("text", "model", "questions", "aidreams260k")]
"""Examples on real weights: file, its network's and its data's function, the weights' name."""

NEEDY = [*(name for name, *_ in REAL), "corrupted_cifar"]
"""Examples that need `$AUTOTUNE_DATA`."""


@pytest.fixture
def little_data(data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`$AUTOTUNE_DATA` with the real weights, and of the data four examples a class and part."""
    for file in data_folder.glob("*.safetensors"):
        (tmp_path / file.name).symlink_to(file)
    for name in ("fsdd", "trec", "cifar10"):
        with np.load(data_folder / f"{name}.npz") as whole:
            arrays = dict(whole)
        for part in ("train", "val", "test"):
            labels = arrays[f"{part}_y"]
            rows = np.concatenate([np.flatnonzero(labels == c)[:4] for c in np.unique(labels)])
            arrays.update({k: arrays[k][rows] for k in arrays if k.startswith(f"{part}_")})
        np.savez(tmp_path / name, **arrays)
    monkeypatch.setenv("AUTOTUNE_DATA", str(tmp_path))


@pytest.mark.pages
@pytest.mark.usefixtures("little_data")
@pytest.mark.parametrize("name", NEEDY)
def test_example_on_real_weights_reports_a_plan(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main_of(name)(str(tmp_path / "run"), **{**FEW, "references": True})
    assert "Plan: " in capsys.readouterr().out
    assert (tmp_path / "run" / "best" / "delta.safetensors").is_file()


@pytest.mark.parametrize(("name", "network", "data", "weights"), REAL)
def test_example_computes_what_the_published_network_does(
    name: str, network: str, data: str, weights: str, data_folder: Path
) -> None:
    example = runpy.run_path(str(EXAMPLES / f"{name}.py"))
    task = as_task(example[data](), name, None)
    published = runpy.run_path(str(data_folder / "models.py"))["load"](weights, len(task.classes))
    network_here = example[network]()
    head = published.get_submodule(published.head).state_dict()
    network_here.get_submodule(published.head).load_state_dict(head)
    inputs = task.train.inputs[:8]
    with torch.no_grad():
        torch.testing.assert_close(network_here.eval()(inputs), published.eval()(inputs))


@pytest.mark.parametrize("name", NEEDY)
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
