"""LoRA-XS."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from autotune.deltas.methods.xs import singular_triples
from autotune.problem.plan import Choice
from deltas.contract import GateContract, MergeContract
from deltas.kinds import LAYERS, WITHOUT_KERNEL
from deltas.rig import Rig

RANK_2 = Choice.of("xs", rank=2)


class TestXS(GateContract, MergeContract):
    CHOICES = (RANK_2,)
    LEFT_ALONE: ClassVar = {"xs-2": WITHOUT_KERNEL}


def factors(rig: Rig) -> tuple[Tensor, Tensor]:
    """UΣ and Vᵀ of the unit's kernel, as a new delta has them."""
    deltas = rig.attach(RANK_2)
    core = next(deltas.by_place["unit", "xs"].parts.children())
    deltas.detach()
    return core.get_buffer("left"), core.get_buffer("right")


@pytest.mark.parametrize(("kind", "kernels"), [("linear", 1), ("attention", 2), ("block", 3)])
def test_costs_the_square_of_the_rank_for_every_kernel(kind, kernels):
    assert Rig(LAYERS[kind]).attach(RANK_2).cost().parameters == 4 * kernels


@pytest.mark.parametrize(("rows", "columns"), [(5, 5), (4, 9), (9, 4), (1, 6)])
def test_factors_are_those_of_the_exact_decomposition(rows, columns):
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(rows, columns, dtype=torch.float64, generator=generator)
    rank = min(3, rows)
    scaled, right = singular_triples(matrix, rank)
    u, sizes, v = torch.linalg.svd(matrix, full_matrices=False)
    signs = (scaled * u[:, :rank]).sum(0).sign()
    torch.testing.assert_close(scaled, u[:, :rank] * sizes[:rank] * signs)
    torch.testing.assert_close(right, v[:rank] * signs[:, None])
    assert (scaled.gather(0, scaled.abs().argmax(0, keepdim=True)) > 0).all()


def test_a_kernel_without_full_rank_has_finite_factors():
    matrix = torch.outer(torch.arange(4.0), torch.arange(6.0)).double()
    scaled, right = singular_triples(matrix, 3)
    torch.testing.assert_close(scaled @ right, matrix)


def test_factors_are_found_once():
    rig = Rig(LAYERS["linear"])
    rig.network.double()
    first, second = factors(rig), factors(rig)
    assert [t.data_ptr() for t in first] == [t.data_ptr() for t in second]


@pytest.mark.parametrize("change", ["in place", "another", "merged"])
def test_factors_are_found_again_after_the_weights_changed(change):
    rig = Rig(LAYERS["linear"])
    before, generator = factors(rig), torch.Generator().manual_seed(1)
    if change == "in place":
        nn.init.normal_(rig.network.unit.weight, generator=generator)
    elif change == "another":
        for _ in range(3):  # the last may lie where the first one was
            kernel = torch.randn(5, 6, generator=generator)
            rig.network.unit.weight = nn.Parameter(kernel, requires_grad=False)
    else:
        deltas = rig.attach(RANK_2)
        rig.train(deltas)
        deltas.merge(rig.batch)
    u, sizes, _ = torch.linalg.svd(rig.network.unit.weight)
    after = factors(rig)
    torch.testing.assert_close(after[0].abs(), (u[:, :2] * sizes[:2]).abs(), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(after[0], before[0])
