"""Sparse."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from autotune.deltas.methods.sparse import Sparse
from autotune.errors import PlanError
from autotune.problem.plan import Choice
from autotune.training.evidence import TaskEvidence
from deltas.contract import GateContract, MergeContract
from deltas.kinds import LAYERS, Kind
from deltas.networks import Around, TwoDtypes
from deltas.rig import Looked, Rig, stored


class TestSparse(GateContract, MergeContract):
    CHOICES = tuple(Choice.of("sparse", k=8, by=by) for by in ("fisher", "gradient", "random"))
    TRIED_ON: ClassVar = {  # what they choose differs from random, and no more
        "sparse-8-fisher": ("tied", "transformer"),
        "sparse-8-gradient": ("tied", "block"),
    }
    test_has_no_place_where_it_says_so = None  # it has one everywhere

    def evidence(self, rig):
        return Looked(rig)


def weights(rig: Rig) -> Tensor:
    """All of the unit, one behind the other."""
    unit = rig.network.unit
    return torch.cat([unit.weight.flatten(), unit.bias]).detach().clone()


@pytest.mark.parametrize("by", ["fisher", "gradient"])
def test_chooses_the_weights_with_the_largest_scores(by):
    rig = Rig(LAYERS["linear"])
    looked = Looked(rig)
    scores = torch.cat([looked.scores(by)[name].flatten() for name in rig.unit.parameters])
    deltas = rig.attach(Choice.of("sparse", k=4, by=by), evidence=looked)
    best = scores.topk(4).indices.sort().values
    assert torch.equal(deltas.tensors()["unit/sparse/indices"].long(), best)


def test_decay_and_moments_touch_no_other_weight():
    rig = Rig(LAYERS["linear"])
    before, deltas = weights(rig), rig.attach(Choice.of("sparse", k=4, by="random"))
    optimizer = torch.optim.AdamW(deltas.parameters(), 0.1, weight_decay=0.5)
    for _ in range(2):
        rig.loss().backward()
        optimizer.step()
    moved = (weights(rig) != before).nonzero().flatten()
    (moments,) = optimizer.state.values()
    assert torch.equal(moved, deltas.tensors()["unit/sparse/indices"].long())
    assert moments["exp_avg"].shape == moments["exp_avg_sq"].shape == (4,)


def test_stores_a_small_index_with_every_value():
    cost = Rig(LAYERS["linear"]).attach(Choice.of("sparse", k=4, by="random")).cost()
    assert (cost.parameters, cost.stored, cost.bytes) == (4, 8, 4 * 4 + 4 * 4)


def test_more_than_the_unit_has_is_all_of_it():
    rig = Rig(LAYERS["linear"])
    deltas = rig.attach(Choice.of("sparse", k=1000, by="random"))
    assert deltas.predicted.parameters == deltas.cost().parameters == 35
    assert deltas.tensors()["unit/sparse/indices"].tolist() == list(range(35))


def test_the_seed_decides_at_random():
    choice = Choice.of("sparse", k=8, by="random")
    chosen = [
        stored(Rig(LAYERS["block"]).attach(choice, seed=seed))["unit/sparse/indices"].tolist()
        for seed in (0, 0, 1)
    ]
    assert chosen[0] == chosen[1] != chosen[2]
    assert chosen[0] == sorted(set(chosen[0]))


def test_a_unit_may_have_tensors_of_two_dtypes():
    rig = Rig(Kind(lambda: Around(TwoDtypes()), (6,)))
    before, deltas = rig.outputs(), rig.attach(Choice.of("sparse", k=50, by="random"))
    assert torch.equal(rig.outputs(), before)
    rig.train(deltas)
    dtypes = [p.dtype for p in (rig.network.unit.first.weight, rig.network.unit.second.weight)]
    assert dtypes == [torch.float64, torch.float32]


def test_a_task_scores_with_a_head_that_fits(tiny_backbone, tiny_task):
    head, part = nn.Linear(4, 3), tiny_task.train
    cpu = torch.device("cpu")
    evidence = TaskEvidence(tiny_backbone, part, input=None, device=cpu, fit_head=lambda: head)
    fisher, gradient = evidence.scores("fisher"), evidence.scores("gradient")
    assert list(fisher) == list(gradient) == list(tiny_backbone.parameters())
    assert all((fisher[name] >= gradient[name].square() - 1e-9).all() for name in fisher)
    assert all(p.requires_grad and p.grad is None for p in tiny_backbone.network.parameters())


def test_refuses_another_score_in_one_line():
    with pytest.raises(PlanError, match=r"one of fisher, gradient, random, got 'x'\.$"):
        Sparse(4, "x")
