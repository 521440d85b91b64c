"""Linear probe: a new head, trained on the frozen network."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from autotune.backbones.base import Backbone
from autotune.backbones.copying import copied
from autotune.backbones.heads.copies import n_classes
from autotune.backbones.heads.rounded import trained_head
from autotune.backbones.units import Units
from autotune.deltas.seeding import seeded
from autotune.problem.job import Job
from autotune.problem.plan import Plan
from autotune.tasks.part import Part
from autotune.training.prefix.prefix import CachedPrefix
from autotune.training.trainable import trainable

SCORING_RATE = 0.01
"""Default learning rate (AdamW) of the head with which weights are scored.

Not tuned: a head only has to fit well enough for gradients to describe the network's weights.
"""


@dataclass(frozen=True, eq=False)
class LinearProbe:
    """Creates heads for one task and trains them on the frozen network."""

    backbone: Backbone
    own_head: nn.Module
    """The backbone's own head; while a job runs, the network has that of the job."""

    units: Units
    prefix: CachedPrefix
    n_classes: int
    keep_head: bool
    """Whether a head starts from the backbone's if that has as many classes."""

    seed: int

    def new_head(self, seed: int) -> nn.Module:
        """Untrained head; equal seeds give equal heads."""
        with seeded(seed, "head"):
            if self.keep_head and n_classes(self.own_head) == self.n_classes:
                return trained_head(copied(self.own_head))
            return trained_head(self.backbone.new_head(self.n_classes, self.own_head))

    def fit(
        self,
        train: Part,
        *,
        evaluated: Part | None = None,
        rate: float = SCORING_RATE,
        seed: int | None = None,
    ) -> tuple[nn.Module, float]:
        """Train a head on `train`; return it and its value on `evaluated` (default: `train`)."""
        seed = self.seed if seed is None else seed
        job = Job("linear probe", Plan(), {"lr:head": rate}, seed)
        parts, recipe = (train, evaluated or train), self.prefix.recipe
        head = self.new_head(seed)
        with trainable(
            self.backbone, self.units, self.prefix, job, head, parts, evidence=None
        ) as probed:
            *_, last = probed.fit(job, recipe).epochs(probed.train, probed.val)
            return head, last.metrics[recipe.metric]
