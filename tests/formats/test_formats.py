"""Files that earlier versions wrote are read by this one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import autotune
from autotune.deltas.artifact import read_artifact
from autotune.deltas.loading import load_adapted
from autotune.deploy.export.from_peft import import_peft
from autotune.deploy.inspection import inspect_file

from .network import SHAPE, numbers, small

FOLDER = Path(__file__).parent.parent / "data" / "formats"
VERSIONS = sorted(folder.name for folder in FOLDER.iterdir())
INPUTS = numbers(3 * 72).view(3, *SHAPE)


def test_this_version_has_its_files():
    assert autotune.__version__ in VERSIONS


def expected(version: str, name: str) -> torch.Tensor:
    return torch.tensor(json.loads((FOLDER / version / "expected.json").read_text())[name])


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ["delta", "path"])
def test_a_delta_computes_what_it_did(version, name):
    file = FOLDER / version / f"{name}.safetensors"
    network = load_adapted(small(), file)
    with torch.no_grad():
        torch.testing.assert_close(network(INPUTS), expected(version, name), rtol=1e-5, atol=1e-5)
    assert inspect_file(file)["metrics"] == {"val": {"accuracy": 0.75}}


@pytest.mark.parametrize("version", VERSIONS)
def test_an_adapter_computes_what_it_did(version):
    artifact = import_peft(FOLDER / version / "adapter", small())
    with torch.no_grad():
        output = load_adapted(small(), artifact)(INPUTS)
    torch.testing.assert_close(output, expected(version, "delta"), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_mask_has_what_it_is_read_for(version):
    mask = inspect_file(FOLDER / version / "mask.json")
    artifact = read_artifact(FOLDER / version / "delta.safetensors")
    assert mask["fingerprint"] == artifact.fingerprint
    assert set(mask["budget"]) == {"limit", "total", "measure", "text"}
    for name, unit in mask["units"].items():
        assert set(unit) == {"selected", "label", "methods", "cost", "parameters"}
        assert unit["selected"] == (name in artifact.plan.choices)
        assert unit["label"] == artifact.plan[name].label
    tensors = load_file(FOLDER / version / "mask.safetensors")
    parameters = small().parameters()
    assert {k: t.shape for k, t in tensors.items()} == {k: p.shape for k, p in parameters.items()}
    marked = {name for name, tensor in tensors.items() if tensor.any()}
    assert marked == {n for unit in mask["units"].values() for n in unit["parameters"]}


@pytest.mark.parametrize("version", VERSIONS)
def test_a_merged_file_computes_what_it_did(version):
    network = small().network
    network.fc = torch.nn.Linear(4, 3)
    network.load_state_dict(load_file(FOLDER / version / "merged.safetensors"), strict=True)
    with torch.no_grad():
        output = network.eval()(INPUTS)
    torch.testing.assert_close(output, expected(version, "delta"), rtol=1e-5, atol=1e-5)
