"""A network is changed so that it can be changed back."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from autotune.backbones.units import Unit, is_norm
from autotune.budget import Cost
from autotune.candidates import new_delta, plan_cost
from autotune.deltas.base import Site, sites
from autotune.plan import Plan


class Deltas:
    """The deltas of one plan on one network, in depth order."""

    def __init__(self, network: nn.Module, units: Iterable[Unit], plan: Plan, *, seed: int) -> None:
        tuned = [unit for unit in units if unit.name in plan.choices]
        if lost := set(plan.choices) - {unit.name for unit in tuned}:
            raise KeyError(f"The network has no units {sorted(lost)}.")
        self.network = network
        self.sites = sites(network, tuned)
        self.predicted = plan_cost(self.sites, plan)
        self.by_place = {
            (unit.name, method.name): new_delta(method)
            for unit in tuned
            for method in plan[unit.name].methods
        }
        self._trained = [m for unit in tuned for m in _modules(network, self.sites[unit.name])]
        self._flags = [(p, p.requires_grad) for p in network.parameters()]
        self._modes = [(m, m.training) for m in network.modules()]
        network.requires_grad_(False)
        network.eval()
        try:
            for place, delta in self.by_place.items():
                with seeded(seed, *place):
                    delta.attach(self.sites[place[0]])
        except BaseException:
            self.detach()
            raise

    def parameters(self) -> list[nn.Parameter]:
        """What trains, the head not included."""
        return [p for delta in self.by_place.values() for p in delta.parameters()]

    def tensors(self) -> dict[str, Tensor]:
        """What is stored: `UNIT/METHOD/NAME` → tensor."""
        return {
            f"{unit}/{method}/{name}": tensor
            for (unit, method), delta in self.by_place.items()
            for name, tensor in delta.tensors().items()
        }

    def cost(self) -> Cost:
        """What really trains and is stored, counted on the tensors themselves."""
        stored = self.tensors().values()
        return Cost(
            sum(p.numel() for p in self.parameters()),
            sum(t.numel() for t in stored),
            sum(t.numel() * t.element_size() for t in stored),
        )

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the values that `tensors` once gave."""
        for (unit, method), delta in self.by_place.items():
            prefix = f"{unit}/{method}/"
            mine = {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
            delta.load(mine)

    def train(self) -> None:
        """Training mode for tuned units alone, without their normalisation statistics."""
        for module in self._trained:
            module.training = not is_norm(module) and not isinstance(module, _STATISTICS)

    def detach(self) -> None:
        """Everything as it was before: parameter objects, classes, flags and modes."""
        for delta in reversed(self.by_place.values()):
            delta.detach()
        for parameter, flag in self._flags:
            parameter.requires_grad_(flag)
        for module, mode in self._modes:
            module.training = mode

    def merge(self) -> None:
        """Write the tuned tensors into the network itself, then detach."""
        slots = [slot for site in self.sites.values() for slot in site.slots]
        tuned = [slot.tensor.detach().clone() for slot in slots]
        self.detach()
        with torch.no_grad():
            for slot, tensor in zip(slots, tuned, strict=True):
                slot.tensor.copy_(tensor)


_STATISTICS = (nn.modules.batchnorm._NormBase,)


@contextmanager
def adapted(
    network: nn.Module, units: Iterable[Unit], plan: Plan, *, seed: int = 0
) -> Iterator[Deltas]:
    """The network with the plan's deltas on; afterwards everything is what it was before."""
    deltas = Deltas(network, units, plan, seed=seed)
    try:
        yield deltas
    finally:
        deltas.detach()


@contextmanager
def seeded(seed: int, *names: str) -> Iterator[None]:
    """Random numbers that depend on the seed and the names alone; torch's own state is kept."""
    text = ":".join([str(seed), *names])
    with torch.random.fork_rng():
        torch.manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big"))
        yield


@contextmanager
def exchanged(network: nn.Module, path: str, module: nn.Module) -> Iterator[nn.Module]:
    """`module` in the place of the one at `path`, which comes back afterwards."""
    parent_path, _, name = path.rpartition(".")
    parent = network.get_submodule(parent_path)
    before = parent._modules[name]
    parent._modules[name] = module
    try:
        yield module
    finally:
        parent._modules[name] = before


@contextmanager
def buffers_of(network: nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
    """The named buffers with other values, which come back afterwards."""
    mine = {name: network.get_buffer(name) for name in values}
    before = {name: buffer.clone() for name, buffer in mine.items()}
    try:
        for name, buffer in mine.items():
            buffer.copy_(values[name])
        yield
    finally:
        for name, buffer in mine.items():
            buffer.copy_(before[name])


def _modules(network: nn.Module, site: Site) -> list[nn.Module]:
    """The module that the unit is, dropout included; or its layers alone, where it is none."""
    mine, prefix = {slot.name for slot in site.slots}, site.name + "."
    inside = {name for name, _ in network.named_parameters() if name.startswith(prefix)}
    is_module = bool(inside) and inside <= mine
    return list(network.get_submodule(site.name).modules()) if is_module else site.layers()
