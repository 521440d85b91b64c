"""Trainable network of one job: deltas and a head on the backbone, behind a cached prefix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor, nn

from autotune.backbones.base import Backbone
from autotune.backbones.heads.rounded import head_tensors, load_head
from autotune.backbones.snapshot import Snapshot
from autotune.backbones.units import Units
from autotune.deltas.attach import Deltas
from autotune.deltas.base import Evidence
from autotune.deltas.surgery import exchanged
from autotune.errors import TrialError
from autotune.problem.job import Job
from autotune.tasks.loading import Feed
from autotune.tasks.part import Part
from autotune.training.loop import Fit, Group, Recipe
from autotune.training.prefix.prefix import CachedPrefix


@dataclass
class Trainable:
    """Network, or its part after the cut, with the feeds that it reads."""

    head: nn.Module
    deltas: Deltas
    forward: nn.Module
    train: Feed
    val: Feed
    frozen: Snapshot
    """What the network's own code may write, which no delta file has."""

    measured: Mapping[str, float] = field(default_factory=dict)
    """Latency or memory of the plan if the study measures it."""

    def fit(self, job: Job, recipe: Recipe) -> Fit:
        """Training run of a job on this network."""
        return Fit(
            self.forward,
            self._groups(job.hyperparameters),
            recipe,
            seed=job.seed,
            weight_decay=job.hyperparameters.get("weight_decay", 0.0),
            parts=job.parts,
            rewind=self.frozen.rewind,
        )

    def _groups(self, rates: Mapping[str, float]) -> list[Group]:
        methods = [
            Group(f"{unit} {method}", list(delta.parameters()), rates[f"lr:{method}"])
            for (unit, method), delta in self.deltas.by_place.items()
        ]
        return [*methods, Group("the head", list(self.head.parameters()), rates["lr:head"])]

    def parameters(self) -> list[nn.Parameter]:
        """All trained parameters."""
        return [*self.deltas.parameters(), *self.head.parameters()]

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Stored tensors of the deltas and the head, by kind."""
        return {"delta": self.deltas.tensors(), "head": head_tensors(self.head)}

    def load(self, kinds: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Load tensors that `tensors` returned."""
        self.deltas.load(kinds.get("delta", {}))
        load_head(self.head, kinds.get("head", {}))

    def trained_names(self) -> dict[str, list[str]]:
        """`delta` and `network` → names of their parameters that require gradients."""
        deltas = {
            f"{unit}/{method}/{name}": parameter
            for (unit, method), delta in self.deltas.by_place.items()
            for name, parameter in delta.named_parameters()
        }
        kinds = {"delta": deltas, "network": dict(self.deltas.network.named_parameters())}
        return {
            kind: sorted(name for name, p in parameters.items() if p.requires_grad)
            for kind, parameters in kinds.items()
        }


@contextmanager
def trainable(
    backbone: Backbone,
    units: Units,
    prefix: CachedPrefix,
    job: Job,
    head: nn.Module,
    parts: tuple[Part, Part],
    *,
    evidence: Evidence | None,
) -> Iterator[Trainable]:
    """Attach a head and the deltas of a job's plan; afterwards the backbone is as before.

    `parts` are the training and validation parts. Raises `TrialError` if the deltas do not have
    the predicted cost.
    """
    network = backbone.network
    before = Snapshot(network)
    with exchanged(network, backbone.head, head):
        deltas = Deltas(network, units, job.plan, seed=job.seed, flow=units.flow, evidence=evidence)
        try:
            head.requires_grad_(True)
            head.train()
            deltas.train()
            if deltas.cost() != deltas.predicted:
                raise TrialError(f"A plan must cost {deltas.predicted}, it costs {deltas.cost()}.")
            size = max(1, prefix.recipe.batch_size // job.parts)
            new = [head, *deltas.by_place.values()]
            frozen = Snapshot(network, without=[m for each in new for m in each.modules()])
            yield Trainable(head, deltas, *prefix.split(*parts, size), frozen)
        finally:
            deltas.detach()
            before.restore()
