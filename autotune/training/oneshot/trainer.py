"""One shot: all choices train together for a short time, and what each earns is measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

import torch
from torch import Tensor
from torch.nn import functional as F

from autotune.backbones.inputs import InputDescription
from autotune.deltas.kernels import matrix_shape
from autotune.deltas.site import Site
from autotune.tasks.loading import Batch, generator_of, shuffled
from autotune.tasks.part import Part
from autotune.training.loop import Recipe, moments_of, put_moments
from autotune.training.oneshot.supernet import Entry, Supernet
from autotune.training.oneshot.zero_cost_proxies import DRAWS, find_proxies
from autotune.utils import interrupts

Credits = Mapping[Entry, Sequence[float]]
"""(unit, label of a method alone) → loss that it took away, in nats, once a batch."""

ChoiceMeasurements = dict[Entry, dict[str, float]]
"""(unit, label of a method alone) → `mass`, `chance`, `relative`, `weights`, `fan in`, …"""

SLOWER = 0.3
"""Of each method's learning rate: many deltas train in each other's company."""

PROXY_BATCHES = 1
"""For each of two disjoint halves; on enumerated plans, more agree no better with the truth."""


class OneShot:
    """A supernet's training on one half of the training part, looked at on the other half.

    All strands are open, each in a random one of its sizes; the head, fitted before, stays. What
    a strand earns is its Aumann-Shapley share of what all of them take off the loss together:
    the mean of -∂loss/∂gate along the line on which all gates go from 0 to 1, at a random point of
    it for each batch. (Integrated gradients, arXiv 1703.01365, of gates.) All randomness is a
    function of the seed and the epoch.
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
        self.training, self.looking = parts
        self.device = torch.device(recipe.device)
        self.optimizer = torch.optim.AdamW(
            [
                {
                    "params": list(strand.delta.parameters()),
                    "lr": SLOWER * rates[f"lr:{strand.methods[0].name}"],
                }
                for strand in supernet.strands
            ],
            weight_decay=0.0,
        )
        self.done = 0

    def proxies(self, *, draws: int = DRAWS) -> tuple[ChoiceMeasurements, ChoiceMeasurements]:
        """What is measured before anything trains, on each of two disjoint halves."""
        given = list(self._batches(self.looking, 0, "none"))
        halves = [given[start::2][:PROXY_BATCHES] or given[:1] for start in (0, 1)]
        generator, shapes = generator_of(self.seed, 0), self._shapes()
        found = [find_proxies(self.supernet, h, generator, draws=draws) for h in halves]
        first, second = ({e: asdict(p) | shapes[e[0]] for e, p in half.items()} for half in found)
        return first, second

    def train(self) -> None:
        """One epoch on the training half."""
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
        """What the strands earn on the other half, one pass over it."""
        generator = generator_of(self.seed, 2 * self.done)
        earned: dict[Entry, list[float]] = {}
        for batch in self._batches(self.looking, 2 * self.done, "none"):
            interrupts.check()
            point = float(torch.rand((), generator=generator))
            for entry, share in self.shares(batch, point, generator).items():
                earned.setdefault(entry, []).append(share)
        return earned

    def shares(self, batch: Batch, point: float, generator: torch.Generator) -> dict[Entry, float]:
        """-∂loss/∂gate of every strand, in random sizes, where all gates are at `point`.

        Over 0 ≤ point ≤ 1 they integrate, summed over strands, to what all take off the loss.
        """
        entries, gates = self._open(generator, torch.tensor(point, device=self.device))
        found = torch.autograd.grad(self._loss(*batch), gates, materialize_grads=True)
        self.supernet.close()
        return dict(zip(entries, (-torch.stack(found)).tolist(), strict=True))

    def state(self) -> dict[str, Tensor]:
        """Enough to go on from here: deltas and the optimizer's moments."""
        moments = moments_of(self.optimizer).items()
        deltas = self.supernet.tensors().items()
        return {f"delta/{k}": t for k, t in deltas} | {f"optimizer/{k}": t for k, t in moments}

    def restore(self, state: Mapping[str, Tensor], done: int) -> None:
        """Go on behind epoch `done` with what `state` once gave."""
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
        """All strands, each in a random size; at a point of the way with gates that are asked."""
        entries, gates = [], []
        for strand in self.supernet.strands:
            at = int(torch.randint(len(strand.methods), (), generator=generator))
            gate = torch.ones(()) if point is None else point.clone().requires_grad_()
            strand.open(at, 1.0 if point is None else gate)
            entries.append(strand.entry(at))
            gates.append(gate)
        return entries, gates

    def _shapes(self) -> dict[str, dict[str, float]]:
        """Unit → its number of weights, and the mean fans of its kernels."""
        return {unit: _shape(site) for unit, site in self.supernet.sites.items()}

    def _loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        with self.recipe.autocast():
            return F.cross_entropy(self.supernet.network(inputs), labels)

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
