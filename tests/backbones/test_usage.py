"""Parameters that are left out: unused, frozen or excluded ones."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from autotune.backbones.base import describe
from autotune.backbones.left_out import left_out
from autotune.backbones.units import find_units
from autotune.backbones.usage import (
    excluded_parameters,
    frozen_parameters,
    swapped_parameters,
    unused_parameters,
    written_parameters,
)
from autotune.errors import ConfigError, SpaceError

X = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
BATCHES = X.split(2)


class Net(nn.Module):
    """A mask token and a decoder of pretraining, and a gate at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.mask_token, self.gate = nn.Parameter(torch.zeros(64)), nn.Parameter(torch.zeros(()))
        self.steps = nn.Parameter(torch.zeros(1, dtype=torch.int64), requires_grad=False)
        self.body, self.branch = nn.Linear(8, 8), nn.Linear(8, 8)
        self.decoder, self.aux, self.head = nn.Linear(8, 8), nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x)
        h = h + self.gate * self.branch(x)
        return self.head(h) + self.aux(h) if self.training else self.head(h)


class Experts(nn.Module):
    """Each example goes through one of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        rows = [self.first(row) if row[0] > 0 else self.second(row) for row in x]
        return self.head(torch.stack(rows))


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(checkpoint(self.body, self.stem(x), use_reentrant=True))


def test_what_the_logits_do_not_depend_on_is_unused():
    network = Net()
    unused = unused_parameters(network, BATCHES)
    assert {name.partition(".")[0] for name in unused} == {"mask_token", "decoder", "aux"}
    assert {"gate", "branch.weight"}.isdisjoint(unused), "a gradient of zero is a use"


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64, torch.float8_e5m2])
def test_parameters_that_cannot_train_are_part_of_the_whole_and_never_offered(dtype):
    network = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
    odd = nn.Parameter(torch.ones(5).to(dtype), requires_grad=dtype.is_complex)
    network[0].register_parameter("odd", odd)
    unused = unused_parameters(network, BATCHES)
    backbone = replace(describe(network, source="x", family="any"), unused=unused)
    assert "0.odd" in backbone.parameters()
    assert set(backbone.tunable()) == {"0.weight", "0.bias"}
    assert [unit.parameters for unit in find_units(backbone, "tree")] == [("0.weight", "0.bias")]
    assert odd.grad is None


def test_experts_of_other_examples_are_used():
    x = X.clone()
    x[:, 0] = torch.tensor([1.0, 1, 1, 1, -1, -1])
    assert unused_parameters(Experts(), x.split(2)) == frozenset()


def test_a_checkpointed_part_is_used():
    assert unused_parameters(Checkpointed(), BATCHES) == frozenset()


def test_the_network_is_left_alone():
    network = Net().train()
    network.body.weight.grad = torch.ones(8, 8)
    network.branch.requires_grad_(False)
    unused_parameters(network, BATCHES)
    assert torch.equal(network.body.weight.grad, torch.ones(8, 8))
    assert network.head.weight.grad is None and not network.branch.weight.requires_grad
    assert all(module.training for module in network.modules())


def test_unused_parameters_are_no_part_of_the_whole_and_protected_ones_are():
    network = Net()
    network.body.requires_grad_(False)
    backbone = replace(
        describe(network, source="net", family="any", head="head"),
        unused=unused_parameters(network, BATCHES),
        protected={
            **dict.fromkeys(frozen_parameters(network), "frozen"),
            **dict.fromkeys(excluded_parameters(network, ["gate"]), "excluded"),
        },
    )
    assert set(backbone.parameters()) == {
        *("gate", "steps", "body.weight", "body.bias", "branch.weight", "branch.bias"),
    }
    assert set(backbone.tunable()) == {"branch.weight", "branch.bias"}
    assert [unit.name for unit in find_units(backbone, "tree")] == ["branch"]
    table = {"gate": "gate|steps", "layer": r"(body|branch)\."}
    assert [unit.name for unit in find_units(backbone, table)] == ["branch"]
    with pytest.raises(
        SpaceError, match=r"first 'branch\.weight'\. .* leave it out with --exclude"
    ):
        find_units(backbone, {"layer": r"(body)\."})
    assert [unit.name for unit in find_units(backbone, {"layer": r"(branch)\."})] == ["branch"]
    assert [(part.name, part.reason, part.parameters) for part in left_out(backbone)] == [
        ("mask_token", "unused", 64),
        ("gate", "excluded", 1),
        ("steps", "frozen", 1),
        ("body", "frozen", 72),
        ("decoder", "unused", 72),
        ("aux", "unused", 36),
    ]


@pytest.mark.parametrize("pattern", ["nothing", "(body"])
def test_a_pattern_that_excludes_nothing_is_refused(pattern):
    with pytest.raises(ConfigError, match="A pattern to exclude must"):
        excluded_parameters(Net(), [pattern])


class Follows(nn.Module):
    """A teacher follows its student in training mode, and a weight is clipped in every pass."""

    def __init__(self, *, clips: bool) -> None:
        super().__init__()
        self.student, self.teacher, self.clips = nn.Linear(8, 3), nn.Linear(8, 3), clips
        self.register_parameter("unset", nn.Parameter(torch.full((2,), torch.nan)))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self.teacher.weight.lerp_(self.student.weight, 0.1)
        if self.clips:
            self.student.weight.data.clamp_(-0.01, 0.01)
        return self.student(x) + self.teacher(x)


@pytest.mark.parametrize("clips", [False, True])
def test_parameters_that_a_forward_pass_writes_are_named_and_restored(clips):
    network = Follows(clips=clips).eval()
    before = [p.detach().clone().nan_to_num() for p in network.parameters()]
    random = torch.get_rng_state()
    names = ["student.weight", "teacher.weight"] if clips else ["teacher.weight"]
    assert written_parameters(network, X) == names
    assert all(map(torch.equal, [p.nan_to_num() for p in network.parameters()], before))
    assert not network.training and torch.equal(torch.get_rng_state(), random)


def test_a_renormed_embedding_does_not_count_as_written():
    network = nn.Sequential(nn.Embedding(9, 4, max_norm=0.1), nn.Flatten(), nn.Linear(12, 2))
    assert written_parameters(network, torch.randint(9, (5, 3))) == []


class Hyper(nn.Module):
    """Another network computes the weight of a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.maker, self.layer, self.head = nn.Linear(4, 64), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.layer.weight + self.maker.weight.sum(1).view(8, 8)
        return self.head(torch.func.functional_call(self.layer, {"weight": weight}, (x,)))


def test_parameters_that_others_stand_in_for_are_named():
    assert swapped_parameters(Hyper(), BATCHES) == {"layer.weight"}
    assert swapped_parameters(Net(), BATCHES) == frozenset()
