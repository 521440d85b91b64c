"""Parameters that share a part of their memory cannot hold merged values."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from autotune.backbones.base import describe
from autotune.backbones.inputs import InputDescription
from autotune.backbones.units import Unit, Units
from autotune.deploy.export import FORMATS
from autotune.deploy.export.base import Subject, written
from autotune.errors import MergeError
from autotune.problem.plan import Choice, Plan

from .subjects import random_artifact

PLAN = Plan({"1": Choice.of("lowrank", rank=2)})


def subject(first: slice, second: slice) -> Subject:
    """A change of the second of two layers whose weights are parts of one tensor."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)).eval()
    whole = torch.randn(8, 4)
    for layer, part in ((network[0], first), (network[1], second)):
        layer.weight = nn.Parameter(whole[part])
    shape = InputDescription(shape=(4,))
    backbone = describe(network, source="network", family="any", input=shape)
    units = Units((Unit("1", ("1.weight", "1.bias")),), ())
    return Subject(backbone, random_artifact(backbone, units, PLAN, prepared=False), None)


def test_a_merge_of_overlapping_parameters_is_refused(tmp_path):
    with pytest.raises(MergeError, match=r"0\.weight and 1\.weight share a part\. Export as"):
        written(FORMATS.load("merged")(), subject(slice(4), slice(2, 6)), tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_parameters_next_to_each_other_in_memory_are_merged(tmp_path):
    written(FORMATS.load("merged")(), subject(slice(4), slice(4, 8)), tmp_path / "merged")
