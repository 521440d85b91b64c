"""The check of an export follows the dtype of the network, and names a random forward pass."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autotune.backbones.base import describe
from autotune.backbones.inputs import InputDescription
from autotune.deploy.export import FORMATS
from autotune.deploy.export.base import Subject, checked, written
from autotune.errors import ExportError
from autotune.problem.plan import Choice, Plan
from autotune.run.settings import read_settings
from autotune.session.sources import find_choices

from .subjects import random_artifact


class Dropping(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5)


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


def subject(dtype: torch.dtype, last: nn.Module | None = None) -> Subject:
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Linear(16, 16), nn.LayerNorm(16), nn.ReLU()) for _ in range(6)]
    network = nn.Sequential(*layers, last or nn.Identity(), nn.Linear(16, 4)).to(dtype).eval()
    rows = InputDescription(shape=(16,), dtype=str(dtype).removeprefix("torch."))
    backbone = describe(network, source="test", family="any", head="7", input=rows)
    settings = read_settings({"budget": "100%", "space": "any", "granularity": "layer"})
    _, units = find_choices(settings, backbone, None)
    plan = Plan({f"{i}.0": Choice.of("lowrank", rank=2) for i in range(6)})
    artifact = random_artifact(backbone, units, plan, False)
    for name, tensor in artifact.tensors.items():
        artifact.tensors[name] = tensor.to(dtype)  # type: ignore[index]
    return Subject(backbone, artifact, settings)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("form", ["delta", "merged", "peft"])
def test_rounding_of_the_dtype_is_accepted(form, dtype, tmp_path):
    kind = FORMATS.load(form)()
    assert written(kind, subject(dtype), tmp_path / form) <= subject(dtype).tolerance(kind)


def test_the_tolerance_grows_with_the_rounding_of_the_dtype():
    kind = FORMATS.load("peft")()
    dtypes = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    tolerances = [subject(dtype).tolerance(kind) for dtype in dtypes]
    assert tolerances == sorted(tolerances)
    assert tolerances[0] <= 1e-10
    assert tolerances[1] == 1e-5
    assert tolerances[3] <= 0.05
    assert subject(torch.bfloat16).tolerance(FORMATS.load("delta")()) == 0


def test_a_small_fault_in_float64_is_found():
    expected = torch.ones(2, 3, dtype=torch.float64)
    with pytest.raises(ExportError, match="changes them by 1e-09"):
        checked(expected * (1 + 1e-9), expected, 1e-11)


@pytest.mark.parametrize("last", [Dropping(), Noisy()], ids=["dropout", "noise"])
@pytest.mark.parametrize("form", ["delta", "merged", "module", "peft"])
def test_a_random_forward_pass_is_named(form, last, tmp_path):
    match = "two forward passes of this network differ in evaluation mode"
    with pytest.raises(ExportError, match=match):
        written(FORMATS.load(form)(), subject(torch.float32, last), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_mask_of_a_random_network_needs_no_check(tmp_path):
    form = FORMATS.load("mask")()
    assert written(form, subject(torch.float32, Noisy()), tmp_path / "mask.json") is None
