"""One-shot training: all choices train together for a short time, then each receives credit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autotune.backbones.activation_checkpoints import plain_checkpoints
from autotune.backbones.forward import logits_of
from autotune.backbones.inputs import InputDescription
from autotune.backbones.precision import widened
from autotune.deltas.kernels import matrix_shape
from autotune.deltas.site import Site
from autotune.deltas.surgery import exchanged
from autotune.tasks.loading import Batch, generator_of, shuffled
from autotune.tasks.part import Part
from autotune.tasks.splits import halved
from autotune.training.evidence import TaskEvidence
from autotune.training.loop import Recipe, moments_of, put_moments
from autotune.training.oneshot.fitted_head import fit_best_head
from autotune.training.oneshot.supernet import Choices, Entry, Supernet
from autotune.training.oneshot.zero_cost_proxies import DRAWS, find_proxies
from autotune.utils import interrupts

if TYPE_CHECKING:
    from autotune.training.engine import Engine

Credits = Mapping[Entry, Sequence[float]]
"""(unit, label of one method) → loss that it removed from each batch, in nats."""

ChoiceMeasurements = dict[Entry, dict[str, float]]
"""(unit, label of one method) → `mass`, `chance`, `relative`, `weights`, `fan in`, …"""

RATE_FACTOR = 0.3
"""Factor on each method's learning rate, since all deltas train at once.

On tables of all plans of a small space, credits from training all deltas at three tenths of their
rates agree better with the true values than credits from random plans at the full rates and in
equal time (docs/policy.md).
"""

PROXY_BATCHES = 1
"""Number of batches for the proxies of each half.

On the same tables, more batches did not improve the agreement with the true values.
"""

EVIDENCE_EXAMPLES = 64
"""Number of examples for the scores with which deltas of a supernet are initialised.

Half as many as for a trial, since the supernet only compares choices. Not tuned.
"""

EVIDENCE_TOGETHER = 16
"""Number of examples whose mean gradient is squared for these scores.

This takes a sixteenth of the backward passes of single examples.
"""


class OneShot:
    """Trains a supernet on one half of the training part and computes credits on the other.

    All strands are open, each in a random size; the head, which was fitted before, stays fixed.
    The credit of a strand is its Aumann-Shapley share of the loss that all strands remove together:
    the mean of -∂loss/∂gate while all gates move from 0 to 1, estimated at one random point per
    batch (integrated gradients, arXiv 1703.01365, with respect to gates). All randomness is
    determined by the seed and the epoch.
    """

    def __init__(
        self,
        supernet: Supernet,
        rates: Mapping[str, float],
        parts: tuple[Part, Part],
        recipe: Recipe,
        *,
        input: InputDescription | None,
        seed: int,
    ) -> None:
        self.supernet, self.recipe, self.input, self.seed = supernet, recipe, input, seed
        self.rates = dict(rates)
        self.training, self.held_out = parts
        self.device = torch.device(recipe.device)
        self.optimizer = torch.optim.AdamW(
            [
                {
                    "params": list(strand.delta.parameters()),
                    "lr": RATE_FACTOR * rates[f"lr:{strand.methods[0].name}"],
                }
                for strand in supernet.strands
            ],
            weight_decay=0.0,
        )
        self.done = 0

    def proxies(self, *, draws: int = DRAWS) -> tuple[ChoiceMeasurements, ChoiceMeasurements]:
        """Measurements of each choice before any training, on two disjoint sets of examples."""
        batches = list(self._batches(self.held_out, 0, "none"))
        halves = [batches[start::2][:PROXY_BATCHES] or batches[:1] for start in (0, 1)]
        generator, shapes = generator_of(self.seed, 0), self._shapes()
        proxies = [
            find_proxies(self.supernet, half, self.recipe, generator, draws=draws)
            for half in halves
        ]
        first, second = (
            {entry: asdict(proxy) | shapes[entry[0]] for entry, proxy in half.items()}
            for half in proxies
        )
        return first, second

    @plain_checkpoints()
    def train(self) -> None:
        """Train for one epoch on the training half."""
        generator = generator_of(self.seed, 2 * self.done + 1)
        for inputs, labels in self._batches(self.training, 2 * self.done + 1, self.recipe.augment):
            interrupts.check()
            self._open(generator)
            loss = self._loss(inputs, labels)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
        self.done += 1
        self.supernet.close()

    def credits(self) -> Credits:
        """Credits of the strands from one pass over the held-out half."""
        generator = generator_of(self.seed, 2 * self.done)
        credits: dict[Entry, list[float]] = {}
        for batch in self._batches(self.held_out, 2 * self.done, "none"):
            interrupts.check()
            point = float(torch.rand((), generator=generator))
            for entry, share in self.shares(batch, point, generator).items():
                credits.setdefault(entry, []).append(share)
        return credits

    @plain_checkpoints()
    def shares(self, batch: Batch, point: float, generator: torch.Generator) -> dict[Entry, float]:
        """-∂loss/∂gate of every strand, in random sizes, with all gates at `point`.

        Integrated over 0 ≤ point ≤ 1 and summed over strands, this is the loss that all remove.
        """
        entries, gates = self._open(generator, torch.tensor(point, device=self.device))
        gradients = torch.autograd.grad(self._loss(*batch), gates, materialize_grads=True)
        self.supernet.close()
        return dict(zip(entries, (-torch.stack(gradients)).tolist(), strict=True))

    def state(self) -> dict[str, Tensor]:
        """Tensors to resume from: deltas and the optimizer's moments."""
        moments = moments_of(self.optimizer).items()
        deltas = self.supernet.tensors().items()
        return {f"delta/{k}": t for k, t in deltas} | {f"optimizer/{k}": t for k, t in moments}

    def restore(self, state: Mapping[str, Tensor], done: int) -> None:
        """Resume after epoch `done` from tensors that `state` returned."""
        kinds: dict[str, dict[str, Tensor]] = {"delta": {}, "optimizer": {}}
        for name, tensor in state.items():
            kind, _, rest = name.partition("/")
            kinds[kind][rest] = tensor
        self.supernet.load(kinds["delta"])
        put_moments(self.optimizer, kinds["optimizer"])
        self.done = done

    def _open(
        self, generator: torch.Generator, point: Tensor | None = None
    ) -> tuple[list[Entry], list[Tensor]]:
        """Open all strands in random sizes, fully or with differentiable gates at `point`."""
        entries, gates = [], []
        for strand in self.supernet.strands:
            at = int(torch.randint(len(strand.methods), (), generator=generator))
            gate = torch.ones(()) if point is None else point.clone().requires_grad_()
            strand.open(at, 1.0 if point is None else gate)
            entries.append(strand.entry(at))
            gates.append(gate)
        return entries, gates

    def _shapes(self) -> dict[str, dict[str, float]]:
        """Unit → number of its weights, and mean fan-in and fan-out of its kernels."""
        return {unit: _shape(site) for unit, site in self.supernet.sites.items()}

    def _loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        with self.recipe.autocast():
            logits = widened(logits_of(self.supernet.network(inputs)))
            return F.cross_entropy(logits, labels)

    def _batches(self, part: Part, epoch: int, augment: str) -> Iterator[Batch]:
        return shuffled(
            part,
            self.recipe.batch_size,
            generator_of(self.seed, epoch),
            input=self.input,
            device=self.device,
            augment=augment,
        )


def _shape(site: Site) -> dict[str, float]:
    kernels = [matrix_shape(slot.frozen) for slot in site.slots if slot.is_matrix()]
    fans = [sum(side) / len(kernels) for side in zip(*kernels, strict=True)] if kernels else [1, 1]
    weights = sum(slot.frozen.numel() for slot in site.slots)
    return {"weights": max(1, weights), "fan out": fans[0], "fan in": fans[1]}


@contextmanager
def one_shot(
    engine: Engine, choices: Choices, rates: Mapping[str, float], head_rates: Sequence[float]
) -> Iterator[OneShot]:
    """Attach all choices to the engine's network for one-shot training; detach them afterwards.

    The supernet trains on one half of the training part, to which a head is first fitted at the
    rate that is best on the other half. Validation and test data are not used.
    """
    parts = halved(engine.task.train, engine.seed)
    head, head_rate = fit_best_head(engine, parts, head_rates)
    rates = {**rates, "lr:head": head_rate}
    network = engine.backbone.network
    with exchanged(network, engine.backbone.head, head):
        supernet = Supernet(
            network,
            engine.units,
            choices,
            seed=engine.seed,
            flow=engine.units.flow,
            evidence=_evidence(engine, parts[0], head),
        )
        try:
            yield OneShot(
                supernet, rates, parts, engine.recipe, input=engine.input, seed=engine.seed
            )
        finally:
            supernet.detach()


def _evidence(engine: Engine, part: Part, head: nn.Module) -> TaskEvidence:
    return TaskEvidence(
        engine.backbone,
        part,
        input=engine.input,
        device=engine.device,
        fit_head=lambda: head,
        together=EVIDENCE_TOGETHER,
        examples=EVIDENCE_EXAMPLES,
    )
