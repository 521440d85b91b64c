"""Folding deltas into the network, and when this is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autotune.backbones.units import Unit
from autotune.errors import MergeError
from autotune.problem.plan import Choice, Plan

from .kinds import LAYERS, Kind
from .networks import Around
from .rig import Rig, bits, same, snapshot


class AlwaysDropping(nn.Module):
    """Monte Carlo dropout: random in evaluation mode too, so that no two outputs agree."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.layer(x), 0.5)


def test_a_merge_that_changes_outputs_is_refused_and_undone():
    rig = Rig(Kind(lambda: Around(AlwaysDropping()), (6,)))
    before, values = snapshot(rig.network), bits(rig.network)
    deltas = rig.attach(Choice.of("lowrank", rank=2))
    rig.train(deltas)
    with pytest.raises(MergeError, match="but two forward passes of this network differ"):
        deltas.merge(rig.batch)
    assert snapshot(rig.network) == before
    assert same(bits(rig.network), values)


def test_one_path_in_a_plan_keeps_all_of_it_from_merging():
    rig = Rig(LAYERS["transformer"])
    choices = Choice.of("lowrank", rank=2), Choice.of("res_adapter", width=2)
    deltas = rig.attach(*choices)
    rig.train(deltas)
    together = rig.outputs()
    with pytest.raises(MergeError, match="weights alone, res_adapter in unit adds a path"):
        deltas.merge(rig.batch)
    assert torch.equal(rig.outputs(), together)


def test_tied_weights_stay_tied():
    rig = Rig(LAYERS["tied-embedding"])
    weight = rig.network.unit.first.weight
    before, deltas = weight.clone(), rig.attach(Choice.of("subtune", what="all"))
    rig.train(deltas)
    deltas.merge(rig.batch)
    assert rig.network.unit.first.weight is rig.network.unit.second.weight is weight
    assert not torch.equal(weight, before)


def test_adapted_statistics_are_merged_too():
    rig = Rig(LAYERS["block"])
    deltas = rig.attach(Choice.of("subtune", what="norms", bn="adapt"))
    rig.train(deltas)
    moved = rig.network.unit.bn1.running_mean.clone()
    assert deltas.merge(rig.batch) <= 1e-5
    assert torch.equal(rig.network.unit.bn1.running_mean, moved)
    assert rig.network.unit.bn1.num_batches_tracked == 2


def test_units_that_have_no_choice_keep_their_bits():
    rig = Rig(LAYERS["block"])
    names = rig.unit.parameters
    first = tuple(name for name in names if "1." in name)
    units = [Unit("first", first), Unit("rest", tuple(n for n in names if n not in first))]
    before = bits(rig.network)
    deltas = rig.attach_plan(Plan({"first": Choice.of("scale")}), units)
    rig.train(deltas)
    deltas.merge(rig.batch)
    after = bits(rig.network)
    assert {name for name in after if not torch.equal(after[name], before[name])} == set(first)
