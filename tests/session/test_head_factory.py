"""Searches with a head factory: on networks whose head cannot be copied, or has several layers."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import autotune
from autotune.deltas.artifact import from_bytes
from autotune.errors import ArtifactError, BackboneError, RunError
from autotune.problem.job import Job
from autotune.problem.plan import Plan

GENERATOR = torch.Generator().manual_seed(0)
ROWS = torch.randn(96, 8, generator=GENERATOR)
DATA = ROWS, ROWS[:, :3].argmax(1)
SMALL = {"budget": "60%", "strategy": "random", "trials": 2, "epochs": 2}


class Prototypes(nn.Module):
    def __init__(self, classes: int, width: int = 16) -> None:
        super().__init__()
        self.points = nn.Parameter(torch.randn(classes, width))

    def forward(self, x: Tensor) -> Tensor:
        return -(x[:, None] - self.points).square().mean(-1)


def deep(old: nn.Module, classes: int) -> nn.Module:
    return nn.Sequential(
        nn.LayerNorm(16), nn.Dropout(0.2), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, classes)
    )


class Net(nn.Module):
    def __init__(self, *, looks: bool = False) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU())
        self.head, self.looks = Prototypes(5), looks

    def forward(self, x: Tensor) -> Tensor:
        if self.looks and x.shape[1] > 5:  # only operators can be traced
            x = x + 0
        return self.head(self.body(x))


def network(*, looks: bool = False) -> nn.Module:
    torch.manual_seed(0)
    return Net(looks=looks).eval()


@pytest.mark.parametrize(
    "looks",
    [False, pytest.param(True, marks=pytest.mark.slow)],
    ids=["modules", "operators"],
)
@pytest.mark.parametrize("factory", [Prototypes, deep], ids=["one layer", "several"])
def test_every_choice_trains_alike_with_and_without_a_cache_and_from_its_file(factory, looks):
    settings = {"head": "head", "head_factory": factory, "epochs": 1, "cache_disk": "0"}
    values = dict[str, list[float]]()
    for memory in ("1GB", "0"):
        net = network(looks=looks)
        setup = autotune.prepare(
            net, DATA, SMALL["budget"], granularity="layer", cache_memory=memory, **settings
        )
        for name, choices in setup.problem.choices.items():
            choice = [*choices][-1]
            rates = dict.fromkeys((f"lr:{part}" for part in ("head", *choice.names)), 0.01)
            job = Job("one", Plan({name: choice}), {**rates, "weight_decay": 0.0}, 0)
            *_, last = setup.engine(job)
            part = setup.engine.task.val
            again = setup.engine.measure(last.artifact, part)
            values.setdefault(f"{name} {choice.label}", []).append(last.metrics["loss"])
            assert again["loss"] == pytest.approx(last.metrics["loss"], rel=1e-5)
        assert setup.engine.prefix.keeps == (memory != "0")
        setup.engine.close()
        assert isinstance(net.head, Prototypes)
    assert any(name.startswith("network") for name in values)
    assert all(kept == pytest.approx(plain, rel=1e-5) for kept, plain in values.values())


def test_a_head_that_cannot_be_copied_needs_a_factory(tmp_path):
    with pytest.raises(BackboneError, match=r"Prototypes cannot: .* --head-factory"):
        autotune.search(network(), DATA, out=tmp_path / "run", **SMALL)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_search_with_a_factory_is_resumed_loaded_and_exported_with_it(tmp_path):
    net = network()
    study = autotune.search(net, DATA, head_factory=deep, out=tmp_path / "run", **SMALL)
    with pytest.raises(RunError, match="its head_factory is not known here"):
        autotune.resume(tmp_path / "run", net, DATA, trials=3)
    study = autotune.resume(tmp_path / "run", net, DATA, head_factory=deep, trials=3)
    delta = study.best.artifact
    with pytest.raises(ArtifactError, match=r"made by a head factory .*head_factory= in Python"):
        autotune.load_adapted(net, delta)
    tuned = autotune.load_adapted(net, delta, head_factory=deep)
    expected = tuned(ROWS)
    assert expected.shape == (96, 3)
    autotune.detach(net)
    with autotune.adapted(net, delta, head_factory=deep) as again:
        assert torch.equal(again(ROWS), expected)
    exported = autotune.export_model(
        tmp_path / "run", "module", tmp_path / "m", backbone=net, head_factory=deep
    )
    assert exported.difference == 0


CODE = """
import torch
from torch import nn

class Scaled(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.scale, self.fc = nn.Parameter(torch.ones(classes)), nn.Linear(16, classes)
    def forward(self, x):
        return self.scale * self.fc(x)

def net():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU())
    return nn.Sequential(body, Scaled(5))

def head(classes):
    return Scaled(classes)

def data():
    rows = torch.randn(96, 8, generator=torch.Generator().manual_seed(0))
    return rows, rows[:, :3].argmax(1)
"""


@pytest.mark.slow
@pytest.mark.processes
def test_a_factory_in_a_file_runs_in_workers_and_only_where_it_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("user.py").write_text(CODE)
    sources = {"backbone": "python:user.py:net", "task": "python:user.py:data"}
    factory, head = {"head_factory": "user.py:head"}, {"head": "1"}
    study = autotune.search(
        **sources, **factory, **head, **SMALL, out="run", backend="processes", workers=2
    )
    assert study.resume_command.endswith("--head-factory user.py:head")
    export = partial(autotune.export_model, out="m.pt2", backbone=sources["backbone"])
    with pytest.raises(RunError, match=r"runs only when it is named: add --head-factory user\.py"):
        export("run", "module")
    assert export("run", "module", **factory).difference == 0
    with pytest.raises(ArtifactError, match="made by a head factory"):
        export(study.best.artifact, "module")
    assert from_bytes(study.best.artifact.read_bytes(), "").header["about"]["head_factory"]


@pytest.mark.slow
def test_tasks_with_and_without_a_factory_share_a_backbone(tmp_path):
    net = network()
    net.head = nn.Linear(16, 5)
    delta = {
        name: autotune.search(net, DATA, out=tmp_path / name, **SMALL, **factory).best.artifact
        for name, factory in {"plain": {}, "deep": {"head_factory": deep}}.items()
    }
    tasks = autotune.MultiTask(net, delta, head_factory=deep)
    with autotune.adapted(net, delta["plain"]) as plain:
        assert torch.equal(tasks(ROWS)["plain"], plain(ROWS))
    with autotune.adapted(net, delta["deep"], head_factory=deep) as tuned:
        assert torch.equal(tasks(ROWS)["deep"], tuned(ROWS))
