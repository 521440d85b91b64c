"""A network of one kind with its unit or span and a batch, to attach methods to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn import functional as F

from autotune.backbones.dataflow import Flow
from autotune.backbones.eval_mode import evaluating
from autotune.backbones.units import Unit
from autotune.deltas.attach import Deltas
from autotune.deltas.base import Evidence
from autotune.deltas.paths import look_at
from autotune.deltas.site import Site
from autotune.problem.plan import Choice, Plan

from .kinds import Kind


class Looked:
    """Evidence that needs no task: random scores, and what passes when the rig's batch does."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.made: dict[tuple[object, ...], Any] = {}

    def scores(self, kind: str) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(len(kind))
        named = self.rig.network.named_parameters()
        return {name: torch.rand(p.shape, generator=generator) for name, p in named}

    def passing(self, site: Site) -> tuple[Tensor, Tensor]:
        seen: list[Tensor] = []

        def keep(x: Tensor) -> None:
            seen.append(x.clone())

        handles = [look_at(site, point, keep) for point in (site.entry, site.exit) if point]
        self.rig.outputs()
        for handle in handles:
            handle.remove()
        return seen[0], seen[1]

    def once(self, key: tuple[object, ...], make: Callable[[], Any]) -> Any:
        if key not in self.made:
            self.made[key] = make()
        return self.made[key]


class Rig:
    """The network of a kind, the unit or span in it, and a batch."""

    def __init__(self, kind: Kind, dtype: torch.dtype | None = None) -> None:
        self.network = kind.network()
        self.unit = kind.unit(self.network)
        self.flow: Flow | None = kind.shapes[1]
        self.network.requires_grad_(False)
        if dtype is not None:
            self.network.to(dtype)
        batch = kind.batch()
        self.batch = batch.to(dtype) if batch.is_floating_point() else batch
        self.target = torch.randn(self.outputs().shape, generator=torch.Generator().manual_seed(1))

    @property
    def site(self) -> Site:
        return Site.of(self.network, self.unit, self.flow)

    def outputs(self) -> Tensor:
        """In evaluation mode and without gradients."""
        with evaluating(self.network):
            return self.network(self.batch)

    def attach(self, *choices: Choice, seed: int = 0, evidence: Evidence | None = None) -> Deltas:
        choice = sum(choices[1:], choices[0])
        return self.attach_plan(
            Plan({self.unit.name: choice}), [self.unit], seed=seed, evidence=evidence
        )

    def attach_plan(
        self, plan: Plan, units: list[Unit], *, seed: int = 0, evidence: Evidence | None = None
    ) -> Deltas:
        return Deltas(self.network, units, plan, seed=seed, flow=self.flow, evidence=evidence)

    def loss(self) -> Tensor:
        return F.mse_loss(self.network(self.batch).float(), self.target)

    def train(self, deltas: Deltas, *, steps: int = 2) -> list[bool]:
        """Whether each trained tensor had a gradient other than zero in one of the steps."""
        deltas.train()
        trained = deltas.parameters()
        had, optimizer = [False] * len(trained), torch.optim.AdamW(trained, 0.05, weight_decay=0.1)
        for _ in range(steps):
            optimizer.zero_grad()
            self.loss().backward()
            had = [
                h or bool(p.grad is not None and p.grad.any())
                for h, p in zip(had, trained, strict=True)
            ]
            optimizer.step()
        return had


def gradients(rig: Rig, deltas: Deltas, outputs: Tensor) -> list[Tensor]:
    """Outputs, and what a loss on them gives every trained tensor; zeros where it gives none."""
    trained = deltas.parameters()
    loss = F.mse_loss(outputs.float(), rig.target)
    gradients_of_trained = torch.autograd.grad(
        loss, trained, allow_unused=True, materialize_grads=True
    )
    return [outputs.detach(), *gradients_of_trained]


def stored(deltas: Deltas) -> dict[str, Tensor]:
    """What the tensors are after a way through a file."""
    return load(content(deltas))


def content(deltas: Deltas) -> bytes:
    return save({name: tensor.contiguous() for name, tensor in deltas.tensors().items()})


def snapshot(network: nn.Module) -> list[Any]:
    """Objects, flags, classes, hooks, modes and order of everything in a network."""
    tensors = [(name, id(p), p.requires_grad) for name, p in network.named_parameters()]
    buffers = [(name, id(b)) for name, b in network.named_buffers()]
    modules = [
        (name, id(m), type(m), m.training, list(m._parameters), list(m._buffers), list(m._modules))
        for name, m in network.named_modules()
    ]
    hooks = [
        [
            list(hooks_of_kind.items())
            for name, hooks_of_kind in sorted(vars(m).items())
            if "hooks" in name
        ]
        for m in network.modules()
    ]
    return [tensors, buffers, modules, hooks, list(network.state_dict())]


def bits(network: nn.Module) -> dict[str, Tensor]:
    """A copy of every tensor of a network."""
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Whether both have equal bits under equal names."""
    return list(first) == list(second) and all(torch.equal(first[k], second[k]) for k in first)


def with_a_graph(rig: Rig) -> set[str]:
    """Paths of the modules that give a tensor with a graph in a training step."""
    paths: set[str] = set()
    for path, module in rig.network.named_modules():

        def see(_: nn.Module, __: Any, output: Any, path: str = path) -> None:
            tensors = output if isinstance(output, tuple) else (output,)
            if any(isinstance(t, Tensor) and t.requires_grad for t in tensors):
                paths.add(path)

        module.register_forward_hook(see)
    rig.network(rig.batch)
    return paths
