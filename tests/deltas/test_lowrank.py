"""LoRA."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import nn

from autotune.deltas.base import check_method, sites
from autotune.deltas.lowrank import LowRank
from autotune.errors import PlanError
from autotune.plan import Choice

from .contract import DeltaContract, Network, attach, units_of


class TestLowRank(DeltaContract):
    LEFT_ALONE: ClassVar = {f"lowrank-{rank}": {"batchnorm", "layernorm"} for rank in (2, 64)}

    @pytest.fixture(params=[2, 64])
    def choice(self, request):
        return Choice.of("lowrank", rank=request.param)


@pytest.mark.parametrize(
    ("layer", "rank", "count"),
    [
        (nn.Linear(6, 5), 2, 2 * (6 + 5)),
        (nn.Linear(6, 5), 64, 5 * (6 + 5)),
        (nn.Conv2d(4, 6, 3), 2, 2 * (6 + 4 * 9)),
        (nn.Conv2d(4, 6, 3, groups=2), 2, 2 * (6 + 2 * 9)),
        (nn.Conv2d(8, 8, 3, groups=8), 16, 8 * (8 + 9)),
    ],
)
def test_counts_both_factors_of_the_kernel(layer, rank, count):
    network = Network(layer)
    site = sites(network, units_of(network))["unit"]
    assert LowRank(rank).count(site).parameters == count


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
    first, second, third = (Network(nn.Linear(6, 5)) for _ in range(3))
    a = attach(first, Choice.of("lowrank", rank=2), seed=3).parameters()[0]
    torch.rand(7)
    assert torch.equal(a, attach(second, Choice.of("lowrank", rank=2), seed=3).parameters()[0])
    assert not torch.equal(a, attach(third, Choice.of("lowrank", rank=2), seed=4).parameters()[0])


def test_attaching_leaves_the_random_state_of_torch_alone():
    network, before = Network(nn.Linear(6, 5)), torch.get_rng_state()
    attach(network, Choice.of("lowrank", rank=2))
    assert torch.equal(torch.get_rng_state(), before)
