"""SubTuning."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch

from autotune.deltas.methods.subtune import Subtune
from autotune.errors import PlanError
from autotune.problem.plan import Choice
from deltas.contract import MergeContract
from deltas.kinds import LAYERS, WITHOUT_NORM, Kind, left
from deltas.networks import Around, TwoDtypes
from deltas.rig import Rig, bits, same, stored

ADAPTING = Choice.of("subtune", what="norms", bn="adapt")


class TestSubtune(MergeContract):
    CHOICES = (
        *(Choice.of("subtune", what=what) for what in ("all", "biases", "norms")),
        Choice.of("subtune", what="all", bn="adapt"),
    )
    TYPICAL = ("linear", "block", "transformer")
    LEFT_ALONE: ClassVar = {
        "subtune-norms": WITHOUT_NORM,
        "subtune-biases": {
            **left("it has no bias", "grouped", "embedding", "tied-embedding"),
            **left("a recurrent layer's are called bias_ih_l0", "recurrent"),
        },
    }
    TRIED_ON: ClassVar = {"subtune-all-adapt": ("batchnorm", "block", "transformer")}


@pytest.mark.parametrize(("what", "count"), [("all", 600), ("norms", 36), ("biases", 18)])
def test_trains_the_part_that_is_named(what, count):
    cost = Rig(LAYERS["block"]).attach(Choice.of("subtune", what=what)).cost()
    assert cost.parameters == cost.stored == count


def test_tied_weights_count_once_and_stay_tied():
    rig = Rig(LAYERS["tied"])
    deltas = rig.attach(Choice.of("subtune", what="all"))
    unit = rig.network.unit
    assert deltas.cost().parameters == 36 + 6 + 6
    assert unit.first.weight is unit.second.weight
    assert unit.first.weight is deltas.parameters()[0]


def test_adapting_statistics_are_stored_and_not_trained():
    cost = Rig(LAYERS["block"]).attach(ADAPTING).cost()
    assert (cost.parameters, cost.stored) == (36, 36 + 3 * (6 + 6 + 1))
    assert cost.bytes == 4 * 36 + 3 * (4 * 6 + 4 * 6 + 8)


def test_a_reloaded_network_equals_the_trained_one_with_its_statistics():
    rig = Rig(LAYERS["block"])
    frozen, deltas = bits(rig.network), rig.attach(ADAPTING)
    rig.train(deltas, steps=3)
    trained, outputs, tensors = bits(rig.network), rig.outputs(), stored(deltas)
    deltas.detach()
    assert trained["unit.bn1.num_batches_tracked"] == 3
    assert not torch.equal(trained["unit.bn1.running_var"], frozen["unit.bn1.running_var"])
    assert same(bits(rig.network), frozen)
    rig.attach(ADAPTING, seed=1).load(tensors)
    assert same(bits(rig.network), trained)
    assert torch.equal(rig.outputs(), outputs)


def test_statistics_stay_where_they_do_not_adapt():
    rig = Rig(LAYERS["block"])
    before = {name: buffer.clone() for name, buffer in rig.network.named_buffers()}
    rig.train(rig.attach(Choice.of("subtune", what="all")))
    assert same(dict(rig.network.named_buffers()), before)


def test_refuses_another_part_in_one_line():
    with pytest.raises(PlanError, match=r"one of all, biases, norms, got 'heads'\.$"):
        Subtune("heads")


def test_keeps_the_dtype_of_each_tensor():
    rig = Rig(Kind(lambda: Around(TwoDtypes()), (6,)))
    deltas = rig.attach(Choice.of("subtune", what="all"))
    assert deltas.cost().bytes == deltas.predicted.bytes == 28 * 8 + 20 * 4
