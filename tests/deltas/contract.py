"""What every method must obey, on every kind of layer; a method's test says which it changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from autotune.adapt import Deltas, adapted
from autotune.backbones.digits import Block
from autotune.backbones.units import Unit
from autotune.budget import Cost
from autotune.candidates import plan_cost
from autotune.deltas import METHODS
from autotune.deltas.base import sites
from autotune.plan import Choice, Plan


class Tied(nn.Module):
    """Two layers that share one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.second = nn.Linear(6, 6)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


KINDS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(6, 5), (6,)),
    "convolution": (lambda: nn.Conv2d(4, 6, 3, padding=1), (4, 5, 5)),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2, bias=False), (4, 5, 5)),
    "strided": (lambda: nn.Conv2d(4, 6, 1, stride=2), (4, 5, 5)),
    "batchnorm": (lambda: nn.BatchNorm2d(4), (4, 5, 5)),
    "layernorm": (lambda: nn.LayerNorm(6), (6,)),
    "block": (lambda: Block(4, 6, 2), (4, 6, 6)),
    "tied": (Tied, (6,)),
}


class Network(nn.Module):
    """A frozen layer in front is not needed: all of it is one unit."""

    def __init__(self, unit: nn.Module) -> None:
        super().__init__()
        self.unit = unit
        self.unit.register_forward_hook(lambda *_: None)

    def forward(self, x: Tensor) -> Tensor:
        return self.unit(x)


def units_of(network: nn.Module) -> list[Unit]:
    return [Unit("unit", tuple(name for name, _ in network.named_parameters()))]


def attach(network: nn.Module, choice: Choice, *, seed: int = 0) -> Deltas:
    return Deltas(network, units_of(network), Plan({"unit": choice}), seed=seed)


def train(network: nn.Module, deltas: Deltas, batch: Tensor, *, steps: int = 3) -> list[bool]:
    """Whether each trained tensor had a gradient other than zero in one of the steps."""
    trained, had = deltas.parameters(), [False] * len(deltas.parameters())
    optimizer = torch.optim.AdamW([*trained, nn.Parameter(torch.zeros(1))], 0.05)
    target = torch.randn(network(batch).shape, generator=torch.Generator().manual_seed(1))
    for _ in range(steps if trained else 0):
        optimizer.zero_grad()
        (network(batch).float() - target).square().mean().backward()
        had = [h or bool(p.grad.any()) for h, p in zip(had, trained, strict=True)]
        optimizer.step()
    return had


def snapshot(network: nn.Module) -> list[Any]:
    """Names, objects, flags, classes, hooks and modes of everything in the network."""
    tensors = [(n, id(p), p.requires_grad) for n, p in network.named_parameters()]
    modules = [
        (name, id(m), type(m), m.training, list(m._parameters), list(m._modules))
        for name, m in network.named_modules()
    ]
    hooks = [list(m._forward_hooks.items()) for m in network.modules()]
    return [tensors, modules, hooks, list(network.state_dict())]


class DeltaContract:
    """Filled in by a `choice` fixture and the kinds of layers that the method leaves alone."""

    LEFT_ALONE: ClassVar[dict[str, set[str]]] = {}
    """Label → kinds."""

    @pytest.fixture
    def choice(self) -> Choice:
        raise NotImplementedError

    @pytest.fixture(params=KINDS)
    def kind(self, request: pytest.FixtureRequest) -> str:
        return request.param

    @pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
    def network(self, kind: str, request: pytest.FixtureRequest) -> Iterator[nn.Module]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = Network(KINDS[kind][0]())
            for tensor in network.state_dict().values():
                if tensor.is_floating_point():
                    tensor.uniform_(0.1, 0.5)
            yield network.to(request.param)

    @pytest.fixture
    def batch(self, kind: str, network: nn.Module) -> Tensor:
        x = torch.randn(4, *KINDS[kind][1], generator=torch.Generator().manual_seed(0))
        return x.to(next(network.parameters()).dtype)

    def test_starts_as_the_identity(self, network, choice, batch):
        before = network.eval()(batch)
        with adapted(network, units_of(network), Plan({"unit": choice})):
            assert torch.equal(network(batch), before)

    def test_count_is_what_trains_and_what_a_file_holds(self, network, choice):
        deltas = attach(network, choice)
        content = save({k: t.contiguous() for k, t in deltas.tensors().items()})
        header = int.from_bytes(content[:8], "little")
        trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
        assert deltas.predicted == deltas.cost()
        assert deltas.predicted.parameters == trained
        assert deltas.predicted.bytes == len(content) - 8 - header

    def test_count_needs_shapes_alone(self, network, choice):
        plan, units = Plan({"unit": choice}), units_of(network)
        before = plan_cost(sites(network, units), plan)
        assert plan_cost(sites(network.to("meta"), units), plan) == before

    def test_counts_zero_exactly_where_it_has_no_place(self, network, choice, kind):
        cost = plan_cost(sites(network, units_of(network)), Plan({"unit": choice}))
        assert (cost == Cost()) == (kind in self.LEFT_ALONE.get(choice.label, set()))

    def test_detach_restores_the_network_after_training(self, network, choice, batch):
        network.eval().unit.train()
        network.unit.requires_grad_(False)
        before, state = snapshot(network), {k: t.clone() for k, t in network.state_dict().items()}
        deltas = attach(network, choice)
        train(network, deltas, batch)
        deltas.detach()
        assert snapshot(network) == before
        assert all(torch.equal(t, state[k]) for k, t in network.state_dict().items())

    def test_detach_gives_back_equal_outputs(self, network, choice, batch):
        before = network.eval()(batch)
        deltas = attach(network, choice)
        train(network, deltas, batch)
        deltas.detach()
        assert torch.equal(network(batch), before)

    def test_deltas_on_one_tensor_come_off_in_reverse(self, network, choice, batch):
        others = [Choice.of("subtune", what="norms"), Choice.of("lowrank", rank=2)]
        stacked = [*choice.methods, *(m for o in [*others, Choice.of("scale")] for m in o.methods)]
        by_name = {m.name: m for m in reversed(stacked)}
        every = Choice(tuple(by_name[name] for name in METHODS.names()))
        network.eval()
        before, outputs = snapshot(network), network(batch)
        deltas = attach(network, every)
        assert torch.equal(network(batch), outputs)
        train(network, deltas, batch)
        deltas.detach()
        assert snapshot(network) == before
        assert torch.equal(network(batch), outputs)

    def test_merged_the_unit_alone_computes_the_same(self, network, choice, batch):
        network.eval()
        before = snapshot(network)
        deltas = attach(network, choice)
        train(network, deltas, batch)
        together = network(batch)
        deltas.merge()
        assert snapshot(network) == before
        torch.testing.assert_close(network(batch), together, rtol=1e-5, atol=1e-6)

    def test_saved_and_loaded_tensors_give_equal_bits(self, network, choice, batch):
        deltas = attach(network, choice, seed=0)
        train(network, deltas, batch)
        outputs = network(batch)
        content = save({k: t.contiguous() for k, t in deltas.tensors().items()})
        deltas.detach()
        again = attach(network, choice, seed=1)
        again.load(load(content))
        assert torch.equal(network(batch), outputs)

    def test_every_trained_tensor_gets_a_gradient_within_two_steps(self, network, choice, batch):
        deltas = attach(network, choice)
        assert all(train(network, deltas, batch, steps=2))

    def test_training_changes_the_delta_and_never_the_backbone(self, network, choice, batch):
        own = {n: (p, p.detach().clone()) for n, p in network.named_parameters()}
        buffers = {n: b.clone() for n, b in network.named_buffers()}
        deltas = attach(network, choice)
        before = network(batch)
        train(network, deltas, batch)
        assert torch.equal(network(batch), before) == (deltas.parameters() == [])
        assert all(torch.equal(p, value) and p.grad is None for p, value in own.values())
        assert all(torch.equal(network.get_buffer(n), b) for n, b in buffers.items())
