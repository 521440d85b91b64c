"""Cached prefix of a network, which is cut for each plan and whose frozen part runs once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from autotune.backbones.base import Backbone
from autotune.backbones.inputs import InputDescription
from autotune.tasks.augment import View, draw_view
from autotune.tasks.loading import Feed, PartFeed, batches, generator_of
from autotune.tasks.part import Part
from autotune.tasks.random_examples import is_random
from autotune.training.loop import Recipe
from autotune.training.prefix.cache import Keeper, ViewedPart
from autotune.training.prefix.cache_stores import Memory, Place, Shelf
from autotune.training.prefix.cut import Cut, cut
from autotune.training.prefix.graph import Graph, graphs_of
from autotune.training.prefix.nodes import Untraceable
from autotune.training.prefix.observation import OBSERVED_EXAMPLES
from autotune.training.prefix.row_check import CHECKED_EXAMPLES, misplaced_value
from autotune.utils.events import tell, warn
from autotune.utils.files import cache_folder
from autotune.utils.timings import spent


@dataclass(frozen=True)
class Keeping:
    """Settings of the cache for outputs of the frozen network."""

    memory: int = 0
    """Limit in the memory of this process, in bytes."""

    disk: int = 0
    """Limit of files, which other workers and later searches can read, in bytes."""

    folder: Path | None = None
    """Folder of the files; None for one in the user's cache folder."""

    dtype: str = "float32"
    """dtype in which float32 values are stored; `bfloat16` halves their size but rounds them."""

    views: int = 0
    """Number of augmented views of the training inputs to cache; 0 draws a new one every epoch."""

    is_shared: bool = False
    """Whether workers of one machine share the cache, which then uses only files."""


class Behind(nn.Module):
    """Part of a network behind a cut, from live values to logits."""

    def __init__(self, network: nn.Module, cut: Cut) -> None:
        super().__init__()
        self.network = network
        self._program = cut.behind

    def forward(self, *live: Tensor) -> Tensor:
        (logits,) = self._program(*live)
        return logits  # type: ignore[no-any-return]


class CachedPrefix:
    """Cuts a network before the deltas of a plan, and caches outputs of the frozen part.

    For weights as well as paths, values that depend on nothing trained are computed once per
    example, and the rest of the network reads them.
    """

    def __init__(
        self,
        backbone: Backbone,
        recipe: Recipe,
        keeping: Keeping,
        *,
        input: InputDescription | None,
        seed: int,
    ) -> None:
        self.backbone, self.network = backbone, backbone.network
        self.recipe, self.keeping, self.input = recipe, keeping, input
        self.seed, self.device = seed, torch.device(recipe.device)
        self._graphs: list[Graph] | None = None
        self._keepers: list[Keeper] = []
        self._reasons: set[str] = set()
        self._is_random = False

    @property
    def keeps(self) -> bool:
        """Whether values are cached, so that the frozen part does not run in every step."""
        is_there = any(keeper.places for keeper in self._keepers) and not self._is_random
        return is_there and (self.recipe.augment == "none" or self.keeping.views > 0)

    def look(self, part: Part, about: Sequence[str]) -> None:
        """Trace the network once, without deltas, on a few examples of a part.

        `about` identifies the weights and the preparation, on which its values depend.
        """
        self._is_random = is_random(part.inputs)
        if self._graphs is None:
            self._graphs = self._traced(part)
        if not self._keepers:
            places = self._places()
            self._keepers = [
                Keeper(
                    graph,
                    places,
                    self.input,
                    self.recipe,
                    dtype=self.keeping.dtype,
                    about=json.dumps([*about, *self._circumstances(graph)]),
                )
                for graph in self._graphs
            ]

    def forget(self) -> None:
        """Drop the cache, before the weights or the preparation change."""
        self._keepers = []

    @spent("prefix")
    def _traced(self, part: Part) -> list[Graph]:
        few = part.take(torch.arange(OBSERVED_EXAMPLES).remainder(len(part)).numpy())
        inputs, _ = next(batches(few, OBSERVED_EXAMPLES, input=self.input, device=self.device))
        with self.recipe.autocast():
            graphs, reason = graphs_of(self.network, inputs, opaque_head=self.backbone.opaque_head)
        if not graphs:
            tell("trunk", f"The network runs as a whole without a cache: {reason}.")
        return [graph for graph in graphs if self._is_right(graph, part)]

    def _is_right(self, graph: Graph, part: Part) -> bool:
        """Whether kept values follow examples of the part; warns if they do not."""
        rows = torch.linspace(0, len(part) - 1, CHECKED_EXAMPLES).round().long()
        checked = part.take(rows.numpy())
        inputs, _ = next(batches(checked, len(rows), input=self.input, device=self.device))
        with self.recipe.autocast():
            misplaced = misplaced_value(graph, self.network, inputs)
        if misplaced:
            warn(
                f"Outputs of the frozen network are not cached: on shuffled examples {misplaced} "
                "would be those of other examples. Trials take longer and are right."
            )
        return misplaced is None

    def split(self, train: Part, val: Part, size: int) -> tuple[nn.Module, Feed, Feed]:
        """Part of the network behind the cut for its present deltas, and feeds for it.

        Returns the network, its training feed and its validation feed. The frozen part runs in
        batches of `size`. If no cut is possible, these are the whole network and plain examples.
        """
        viewed = [self._viewed(train, self.recipe.augment), self._viewed(val, "none")]
        if is_random(train.inputs):
            viewed[0] = replace(viewed[0], views=[])
        reason = ""
        for keeper in self._keepers:
            try:
                network_cut = cut(keeper.graph, fuse_batchnorm=self.recipe.fuse_batchnorm)
            except Untraceable as error:
                reason = str(error)
                continue
            self._tell_why(network_cut.why or reason)
            train_feed, val_feed = keeper.feeds(network_cut.live, viewed, size)
            return Behind(self.network, network_cut), train_feed, val_feed
        if reason:
            tell("trunk", f"For this plan the network runs as a whole without a cache: {reason}.")
        return self.network, viewed[0].plain, viewed[1].plain

    def _tell_why(self, reason: str) -> None:
        """Say once why more of the network than a plan demands runs in every step."""
        if reason and reason not in self._reasons:
            self._reasons.add(reason)
            tell("trunk", f"More of the network than plans demand runs in every step: {reason}.")

    def _viewed(self, part: Part, augment: str) -> ViewedPart:
        if augment == "none":
            return ViewedPart(part, PartFeed(part, self.input, self.device), [("as it is", View())])
        generators = [generator_of(self.seed, at) for at in range(self.keeping.views)]
        views = [draw_view(augment, len(part), generator) for generator in generators]
        names = [f"{augment} {self.seed} {at}" for at in range(len(views))]
        plain = PartFeed(part, self.input, self.device, augment, views)
        return ViewedPart(part, plain, list(zip(names, views, strict=True)))

    def _places(self) -> list[Place]:
        keeping, places = self.keeping, list[Place]()
        if keeping.memory and not keeping.is_shared:
            places.append(Memory(keeping.memory, self.device))
        if keeping.disk:
            places.append(Shelf(keeping.folder or cache_folder() / "trunk", keeping.disk))
        return places

    def _circumstances(self, graph: Graph) -> list[str]:
        """Circumstances that affect the rounding of values."""
        on_gpu = self.device.type == "cuda"
        return [
            torch.__version__,
            torch.cuda.get_device_name(self.device) if on_gpu else self.device.type,
            str(torch.get_num_threads()),
            str(self.input),
            self.recipe.layout,
            self.recipe.precision,
            graph.text,
        ]
