"""Evidence from training data that deltas are initialised with, collected once per study."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from autotune.backbones.base import Backbone
from autotune.backbones.dataflow import Point
from autotune.backbones.eval_mode import evaluating
from autotune.backbones.inputs import InputDescription
from autotune.deltas.computed import constant
from autotune.deltas.paths import look_at
from autotune.deltas.site import Site
from autotune.deltas.surgery import exchanged
from autotune.tasks.loading import batches, generator_of
from autotune.tasks.part import Part
from autotune.training.fisher import weight_scores

SCORED_EXAMPLES = 128
"""Default number of training examples on which scores are computed.

Not tuned: scores are means over examples, and their time grows linearly with the number.
"""

FEATURE_EXAMPLES = 256
"""Maximum number of training inputs whose features at a site are kept.

Not tuned: means need no more.
"""

FEATURE_BYTES = 2**28
"""Maximum size of the features kept for one site, 256 MiB: a safeguard for large images."""

BATCH_SIZE = 32
"""Examples per forward pass for features; it affects only speed and memory."""


class TaskEvidence:
    """Scores of weights, and features at sites, from some training examples.

    `fit_head` returns a head fitted to the frozen network, so that gradients do not describe a
    random head. With `together` > 1, scores square the mean gradient of that many examples, which
    is faster and less exact. Call its methods only while nothing is attached to the network.
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
        """Result of `make`, computed once per key."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def scores(self, kind: str) -> Mapping[str, Tensor]:
        """Name of a parameter, or of a weight computed from some → `fisher` or `gradient` scores.

        They are those that `weight_scores` returns.
        """
        by_kind: dict[str, dict[str, Tensor]] = self.once(("scores",), self._scored)
        return by_kind[kind]

    def passing(self, site: Site) -> tuple[Tensor, Tensor]:
        """Features that enter and leave a site, (n, ...) each."""
        features: tuple[Tensor, Tensor] = self.once(
            ("passing", site.name), lambda: self._features(site)
        )
        return features

    def run(self) -> None:
        """Pass the examples through the frozen network, for hooks that observe it."""
        with evaluating(self.backbone.network):
            for inputs, _ in self._examples(self.examples, BATCH_SIZE):
                self.backbone.network(inputs)

    def _scored(self) -> dict[str, dict[str, Tensor]]:
        head, network = self.fit_head(), self.backbone.network
        with exchanged(network, self.backbone.head, head):
            examples = list(self._examples(self.examples, self.together))
            scores = weight_scores(network, self.backbone.tunable(), examples)
            with constant(network) as constants:  # weights that the network computes
                computed = weight_scores(network, constants, examples) if constants else {}
        return {kind: {**scores[kind], **computed.get(kind, {})} for kind in scores}

    def _features(self, site: Site) -> tuple[Tensor, Tensor]:
        assert site.entry and site.exit
        network = self.backbone.network
        size = 4 * sum(torch.Size(point.shape).numel() for point in (site.entry, site.exit))
        n = max(1, min(FEATURE_EXAMPLES, FEATURE_BYTES // size))
        with (
            evaluating(network),
            _recorded(site, site.entry) as inputs,
            _recorded(site, site.exit) as outputs,
        ):
            for examples, _ in self._examples(n, BATCH_SIZE):
                network(examples)
        return torch.cat(inputs), torch.cat(outputs)

    def _examples(self, n: int, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        rows = torch.randperm(len(self.part), generator=generator_of(0, 0))[:n]
        small = self.part.take(rows.numpy())
        return batches(small, size, input=self.input, device=self.device)


@contextmanager
def _recorded(site: Site, point: Point) -> Iterator[list[Tensor]]:
    """Copies of the tensors that pass a point while the context is open."""
    features: list[Tensor] = []

    def keep(x: Tensor) -> None:
        features.append(x.detach().clone())

    handle = look_at(site, point, keep)
    try:
        yield features
    finally:
        handle.remove()
