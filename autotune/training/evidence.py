"""Evidence: what deltas look at before they train, found once for all trials of a study."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autotune.backbones.base import Backbone
from autotune.backbones.dataflow import Point
from autotune.backbones.eval_mode import evaluating
from autotune.backbones.inputs import InputDescription
from autotune.deltas.paths import look_at
from autotune.deltas.site import Site
from autotune.deltas.surgery import exchanged
from autotune.tasks.loading import batches, generator_of
from autotune.tasks.part import Part

SCORED_EXAMPLES = 128
"""Training examples that scores are taken on, where no other number is given."""

PASSING = 256
"""Training inputs that pass through a site, at most; no more than `BYTES` of them."""

BYTES = 2**28


class TaskEvidence:
    """Scores of weights and what passes through sites, on some training examples.

    `fit_head` gives a head that fits the frozen network, so that gradients don't describe a
    random one. With several examples `together` a score squares the mean of their gradients, which
    is rougher and faster. To be asked while nothing is attached to the network.
    """

    def __init__(
        self,
        backbone: Backbone,
        part: Part,
        *,
        input: InputDescription | None,
        device: torch.device,
        fit_head: Callable[[], nn.Module],
        together: int = 1,
        examples: int = SCORED_EXAMPLES,
    ) -> None:
        self.backbone, self.part, self.input = backbone, part, input
        self.device, self.fit_head, self.together = device, fit_head, together
        self.examples = examples
        self._made: dict[tuple[object, ...], Any] = {}

    def once(self, key: tuple[object, ...], make: Callable[[], Any]) -> Any:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def scores(self, kind: str) -> Mapping[str, Tensor]:
        """`fisher`: mean of squared gradients of one example each; `gradient`: |their mean|."""
        found: dict[str, dict[str, Tensor]] = self.once(("scores",), self._scored)
        return found[kind]

    def passing(self, site: Site) -> tuple[Tensor, Tensor]:
        taken: tuple[Tensor, Tensor] = self.once(("passing", site.name), lambda: self._passed(site))
        return taken

    def run(self) -> None:
        """Some examples through the frozen network, for those who listen."""
        with evaluating(self.backbone.network):
            for inputs, _ in self._examples(self.examples, 32):
                self.backbone.network(inputs)

    def _scored(self) -> dict[str, dict[str, Tensor]]:
        head = self.fit_head()
        network, parameters = self.backbone.network, self.backbone.parameters()
        squares = {name: torch.zeros_like(p) for name, p in parameters.items()}
        sums = {name: torch.zeros_like(p) for name, p in parameters.items()}
        with exchanged(network, self.backbone.head, head), _with_gradients(network):
            examples = list(self._examples(self.examples, self.together))
            for inputs, labels in examples:
                loss = F.cross_entropy(network(inputs), labels)
                gradients = torch.autograd.grad(loss, [*parameters.values()], allow_unused=True)
                for name, gradient in zip(parameters, gradients, strict=True):
                    if gradient is not None:
                        squares[name] += gradient.square()
                        sums[name] += gradient
        n = len(examples)
        return {
            "fisher": {name: total / n for name, total in squares.items()},
            "gradient": {name: total.abs() / n for name, total in sums.items()},
        }

    def _passed(self, site: Site) -> tuple[Tensor, Tensor]:
        assert site.entry and site.exit
        network = self.backbone.network
        size = 4 * sum(torch.Size(point.shape).numel() for point in (site.entry, site.exit))
        n = max(1, min(PASSING, BYTES // size))
        with evaluating(network), _seen(site, site.entry) as taken, _seen(site, site.exit) as given:
            for examples, _ in self._examples(n, 32):
                network(examples)
        return torch.cat(taken), torch.cat(given)

    def _examples(self, n: int, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        rows = torch.randperm(len(self.part), generator=generator_of(0, 0))[:n]
        small = self.part.take(rows.numpy())
        return batches(small, size, input=self.input, device=self.device)


@contextmanager
def _with_gradients(network: nn.Module) -> Iterator[None]:
    """Evaluation mode, and gradients for every parameter; afterwards as before."""
    flags = [(p, p.requires_grad) for p in network.parameters()]
    network.requires_grad_(True)
    try:
        with evaluating(network), torch.enable_grad():
            yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


@contextmanager
def _seen(site: Site, point: Point) -> Iterator[list[Tensor]]:
    """What passes at a point while inside."""
    seen: list[Tensor] = []

    def keep(x: Tensor) -> None:
        seen.append(x.detach().clone())

    handle = look_at(site, point, keep)
    try:
        yield seen
    finally:
        handle.remove()
