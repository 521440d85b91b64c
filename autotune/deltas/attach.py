"""Attach the deltas of a plan to a network, and detach or merge them exactly."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils.spectral_norm import SpectralNorm

from autotune.backbones.dataflow import Flow
from autotune.backbones.snapshot import Snapshot
from autotune.backbones.units import Unit, is_norm
from autotune.deltas.base import Evidence
from autotune.deltas.candidates import check_choice, check_plan
from autotune.deltas.computed import parametrizing
from autotune.deltas.costs import new_delta, plan_cost
from autotune.deltas.merging import new_values, write_all
from autotune.deltas.outputs import NOT_REPEATABLE, REPEATABLE, is_repeatable, outputs_of
from autotune.deltas.rounding import rounding
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
        fixed = parametrizing(network)
        modules = [module for site in self.sites.values() for module in site.modules]
        self._trained = [module for module in modules if module not in fixed]
        self._frozen = frozen(network)
        # attributes stay, as deltas that are loaded stay on the network for long
        self._snapshot = Snapshot(network, has_attributes=False)
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
        """Put the tuned units into training mode; of normalisation only what a delta adapts.

        Spectral norm stays in evaluation mode, too: in training mode it writes its estimates.
        """
        for module in self._trained:
            module.training = not (is_norm(module) or _estimates(module))
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
        `MergeError`, with the network's own tensors unchanged, for a delta that adds a path (all
        stay attached), and for a weight that the network's parametrization cannot compute or a
        difference above `TOLERANCE` times the dtype's `rounding` (all are detached).
        """
        if kept := [f"{m} in {u}" for (u, m), d in self.by_place.items() if not d.mergeable]:
            raise MergeError(
                f"A merge needs deltas of weights alone, {', '.join(kept)} adds a path. "
                "Keep the delta file next to the backbone instead."
            )
        together = outputs_of(self.network, inputs)
        values = new_values(self.sites.values())
        self.detach()
        undo = write_all(values)
        change = difference(outputs_of(self.network, inputs), together)
        if not change <= TOLERANCE * rounding(self.network):  # NaN is refused too
            undo()
            raise MergeError(self._misfit(change, inputs))
        return change

    def _misfit(self, change: float, inputs: Tensor) -> str:
        allowed = TOLERANCE * rounding(self.network)
        rule = f"A merge may change outputs by {allowed:g} of the largest"
        if not is_repeatable(self.network, inputs):
            return f"{rule}, but {NOT_REPEATABLE}. {REPEATABLE}"
        return (
            f"{rule}, this one changes them by {change:.2g}. Keep the delta file, or use float32."
        )


TOLERANCE = 1e-5
"""Largest accepted change of outputs by a merge in float32, relative to the largest output."""


_STATISTICS = (nn.modules.batchnorm._NormBase, parametrizations._SpectralNorm)
"""Modules that write buffers of their own in training mode."""


def _estimates(module: nn.Module) -> bool:
    """Whether a module, or a hook that computes its weight, writes buffers in training mode."""
    hooks = module._forward_pre_hooks.values()
    return isinstance(module, _STATISTICS) or any(isinstance(h, SpectralNorm) for h in hooks)


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
