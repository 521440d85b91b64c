"""Attach the deltas of a plan to a network, and detach or merge them exactly."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from autotune.backbones.dataflow import Flow
from autotune.backbones.eval_mode import evaluating
from autotune.backbones.forward import logits_of
from autotune.backbones.snapshot import Snapshot
from autotune.backbones.units import Unit, is_norm
from autotune.deltas.base import Evidence
from autotune.deltas.candidates import check_choice, check_plan
from autotune.deltas.costs import new_delta, plan_cost
from autotune.deltas.seeding import seeded
from autotune.deltas.site import sites
from autotune.deltas.surgery import difference, frozen
from autotune.errors import MergeError
from autotune.problem.budget import Cost
from autotune.problem.plan import Plan


class Deltas:
    """The deltas of one plan on one network, in depth order.

    Methods that add paths need `flow`. With `evidence`, deltas are initialised from data before
    they attach. Raises `PlanError` for methods that may not share a unit or have no place there.
    """

    def __init__(
        self,
        network: nn.Module,
        units: Iterable[Unit],
        plan: Plan,
        *,
        seed: int,
        flow: Flow | None = None,
        evidence: Evidence | None = None,
    ) -> None:
        tuned = [unit for unit in units if unit.name in plan.choices]
        if lost := set(plan.choices) - {unit.name for unit in tuned}:
            raise KeyError(f"The network has no units {sorted(lost)}.")
        check_plan(plan)
        self.network = network
        self.sites = sites(network, tuned, flow)
        for unit in tuned:
            check_choice(plan[unit.name], self.sites[unit.name])
        self.predicted = plan_cost(self.sites, plan)
        self.by_place = {
            (unit.name, method.name): new_delta(method)
            for unit in tuned
            for method in plan[unit.name].methods
        }
        self._trained = [module for site in self.sites.values() for module in site.modules]
        self._frozen, self._snapshot = frozen(network), Snapshot(network)
        try:
            self._start(seed, evidence)
            self._attach(seed)
        except BaseException:
            self.detach()
            raise

    def _start(self, seed: int, evidence: Evidence | None) -> None:
        for place, delta in self.by_place.items() if evidence else ():
            assert evidence is not None
            with seeded(seed, *place, "start"):
                delta.start(self.sites[place[0]], evidence)

    def _attach(self, seed: int) -> None:
        for place, delta in self.by_place.items():
            with seeded(seed, *place):
                delta.attach(self.sites[place[0]])

    def parameters(self) -> list[nn.Parameter]:
        """Trainable parameters of the deltas, without the head's."""
        return [p for delta in self.by_place.values() for p in delta.parameters()]

    def tensors(self) -> dict[str, Tensor]:
        """Tensors to store: `UNIT/METHOD/NAME` → tensor."""
        return {
            f"{unit}/{method}/{name}": tensor
            for (unit, method), delta in self.by_place.items()
            for name, tensor in delta.tensors().items()
        }

    def cost(self) -> Cost:
        """Actual cost, counted on the tensors themselves; `predicted` comes from shapes."""
        stored = self.tensors().values()
        return Cost(
            sum(p.numel() for p in self.parameters()),
            sum(t.numel() for t in stored),
            sum(t.numel() * t.element_size() for t in stored),
        )

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy values that `tensors` returned earlier into the deltas."""
        for (unit, method), delta in self.by_place.items():
            prefix = f"{unit}/{method}/"
            values = {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
            delta.load(values)

    def train(self) -> None:
        """Put the tuned units into training mode; of normalisation only what a delta adapts."""
        for module in self._trained:
            module.training = not is_norm(module) and not isinstance(module, _STATISTICS)
        for (unit, _), delta in self.by_place.items():
            for layer in delta.adapts(self.sites[unit]):
                layer.training = True

    def detach(self) -> None:
        """Restore parameter objects, classes, flags, modes and written tensors."""
        for delta in reversed(self.by_place.values()):
            delta.detach()
        self._snapshot.restore()
        self._frozen()

    def merge(self, inputs: Tensor) -> float:
        """Write the tuned tensors into the network itself, detach, return the largest difference.

        Outputs on `inputs` are compared in evaluation mode, relative to the largest. Raises
        `MergeError`, with the network's own tensors unchanged, for a delta that cannot be merged
        (all stay attached) or a difference above 1e-5 (all are detached).
        """
        if kept := [f"{m} in {u}" for (u, m), d in self.by_place.items() if not d.mergeable]:
            raise MergeError(
                f"A merge needs deltas of weights alone, {', '.join(kept)} adds a path. "
                "Keep the delta file next to the backbone instead."
            )
        together = _output(self.network, inputs)
        tuned = self._tensors_of_sites()
        tuned = [(module, name, tensor.detach().clone()) for module, name, tensor in tuned]
        self.detach()
        before = [(module, name, _held(module, name).clone()) for module, name, _ in tuned]
        _write(tuned)
        change = difference(_output(self.network, inputs), together)
        if not change <= TOLERANCE:  # NaN is refused too
            _write(before)
            raise MergeError(
                f"A merge may change outputs by {TOLERANCE:g} of the largest, this one changes "
                f"them by {change:.2g}. Keep the delta file, or use float32."
            )
        return change

    def _tensors_of_sites(self) -> list[tuple[nn.Module, str, Tensor]]:
        weights = [(*slot.owners[0], slot.tensor) for s in self.sites.values() for slot in s.slots]
        layers = [layer for site in self.sites.values() for layer in site.modules]
        buffers = [(m, k, b) for m in layers for k, b in m.named_buffers(recurse=False)]
        return [*weights, *buffers]


TOLERANCE = 1e-5
"""Largest accepted change of outputs by a merge, relative to the largest output.

Rounding in float32 stays below it, in half precision it does not.
"""


def _output(network: nn.Module, inputs: Tensor) -> Tensor:
    with evaluating(network):
        output: Tensor = logits_of(network(inputs))
    return output


def _held(module: nn.Module, name: str) -> Tensor:
    tensor: Tensor = getattr(module, name)
    return tensor.detach()


def _write(tensors: list[tuple[nn.Module, str, Tensor]]) -> None:
    with torch.no_grad():
        for module, name, tensor in tensors:
            _held(module, name).copy_(tensor)


_STATISTICS = (nn.modules.batchnorm._NormBase,)  # layers with running statistics


@contextmanager
def attached(
    network: nn.Module,
    units: Iterable[Unit],
    plan: Plan,
    *,
    seed: int = 0,
    flow: Flow | None = None,
    evidence: Evidence | None = None,
) -> Iterator[Deltas]:
    """Context with the plan's deltas attached to the network; on exit everything is restored."""
    deltas = Deltas(network, units, plan, seed=seed, flow=flow, evidence=evidence)
    try:
        yield deltas
    finally:
        deltas.detach()
