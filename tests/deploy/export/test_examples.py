"""A network that refuses noise is compared on examples of its task."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import autotune
from autotune.errors import ExportError

CODE = '''
import torch
from torch import nn

class Ends(nn.Module):
    """Each example must contain the token 9, as models look for the end of a text."""

    def __init__(self):
        super().__init__()
        self.tokens, self.body, self.head = nn.Embedding(10, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        if not bool((x == 9).any(1).all()):
            raise ValueError("each example must contain a 9")
        return self.head(self.body(self.tokens(x).mean(1)).relu())

def net():
    torch.manual_seed(0)
    return Ends()
'''
SMALL = {"budget": "30%", "strategy": "random", "trials": 1, "epochs": 1, "out": "run"}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(CODE)
    tokens = np.random.default_rng(0).integers(0, 10, (90, 6))
    tokens[:, 3] = 9
    np.savez("data.npz", x_train=tokens, y_train=np.arange(90) % 3)
    (tmp_path / "input.yaml").write_text("shape: [6]\ndtype: int64\n")
    space = "family: net\nunits:\n  block: {body: (body)}\n  layer: {body: (body)}\n"
    space += "choices:\n  - lowrank: {rank: [1]}\n"
    space += "hyperparameters: {lr: {head: [0.01], lowrank: [0.01]}}\n"
    Path("space.yaml").write_text(space)
    autotune.search(
        "python:net.py:net", "npz:data.npz", space="space.yaml", exclude="tokens", **SMALL
    )
    return "run"


@pytest.mark.parametrize("format", ["delta", "merged"])
def test_an_export_of_a_run_is_compared_on_examples_of_its_task(run, format):
    exported = autotune.export_model(run, format, "a", backbone="python:net.py:net")
    assert exported.difference is not None and exported.difference <= 1e-5


def test_an_export_of_a_file_needs_the_task_or_inputs(run):
    file = Path(run) / "best" / "delta.safetensors"
    with pytest.raises(
        ExportError, match=r"refuses noise \(each .* a 9\)\. Name the task with --t"
    ):
        autotune.export_model(file, "merged", "a", backbone="python:net.py:net")
    inputs = torch.zeros(2, 6, dtype=torch.int64)
    with pytest.raises(ExportError, match="refuses these inputs"):
        autotune.export_model(file, "merged", "a", backbone="python:net.py:net", inputs=inputs)
    for name, named in {"b": {"task": "npz:data.npz"}, "c": {"inputs": inputs + 9}}.items():
        exported = autotune.export_model(
            file, "merged", name, backbone="python:net.py:net", **named
        )
        assert exported.difference is not None
