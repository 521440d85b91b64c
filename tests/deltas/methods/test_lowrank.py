"""LoRA."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch

from autotune.deltas.base import check_method
from autotune.deltas.methods.lowrank import LowRank
from autotune.errors import PlanError
from autotune.problem.plan import Choice
from deltas.contract import GateContract, MergeContract
from deltas.kinds import LAYERS, WITHOUT_KERNEL
from deltas.rig import Rig

RANK_2 = Choice.of("lowrank", rank=2)


class TestLowRank(GateContract, MergeContract):
    CHOICES = (RANK_2,)
    LEFT_ALONE: ClassVar = {"lowrank-2": WITHOUT_KERNEL}


@pytest.mark.parametrize(
    ("kind", "rank", "count"),
    [
        ("linear", 2, 2 * (6 + 5)),
        ("linear", 64, 5 * (6 + 5)),
        ("convolution", 2, 2 * (6 + 4 * 9)),
        ("grouped", 2, 2 * (6 + 2 * 9)),
        ("depthwise", 16, 4 * (4 + 9)),
        ("transposed-grouped", 2, 2 * (4 + 3 * 9)),
        ("embedding", 2, 2 * (7 + 6)),
        ("tied", 2, 2 * (6 + 6)),
        ("attention", 2, 2 * (18 + 6) + 2 * (6 + 6)),
    ],
)
def test_counts_both_factors_of_the_kernel(kind, rank, count):
    deltas = Rig(LAYERS[kind]).attach(Choice.of("lowrank", rank=rank))
    assert deltas.cost().parameters == deltas.predicted.parameters == count


def test_a_packed_projection_is_one_kernel():
    rig = Rig(LAYERS["attention"])
    before = rig.network.unit.heads.in_proj_weight.detach().clone()
    deltas = rig.attach(RANK_2)
    rig.train(deltas)
    tensors = {
        name.rpartition(".")[2]: t for name, t in deltas.tensors().items() if "in_proj" in name
    }
    change = rig.network.unit.heads.in_proj_weight - before
    torch.testing.assert_close(change, tensors["b"] @ tensors["a"])
    assert all(part.any() for part in change.chunk(3))


@pytest.mark.parametrize("rank", [0, -1, True, 1.5, "4"])
def test_refuses_what_is_no_rank(rank):
    with pytest.raises(PlanError, match="rank of at least 1, got"):
        LowRank(rank)


def test_options_are_checked_against_the_method():
    with pytest.raises(PlanError, match=r"lowrank has no option 'alpha'. Known: rank"):
        check_method("lowrank", {"rank": 2, "alpha": 1.0}, LowRank)
    with pytest.raises(PlanError, match="lowrank needs the option 'rank'"):
        check_method("lowrank", {}, LowRank)


def test_the_seed_alone_decides_where_it_starts():
    first, second, third = (Rig(LAYERS["linear"]) for _ in range(3))
    a = first.attach(RANK_2, seed=3).parameters()[0]
    torch.rand(7)
    assert torch.equal(a, second.attach(RANK_2, seed=3).parameters()[0])
    assert not torch.equal(a, third.attach(RANK_2, seed=4).parameters()[0])


def test_attaching_leaves_the_random_state_of_torch_alone():
    rig, before = Rig(LAYERS["linear"]), torch.get_rng_state()
    rig.attach(RANK_2)
    assert torch.equal(torch.get_rng_state(), before)
