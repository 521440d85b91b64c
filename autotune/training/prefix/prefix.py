"""The trunk of a backbone and a task: cut for each plan, and kept before the cut."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from autotune.backbones.inputs import InputDescription
from autotune.tasks.augment import View, draw_view
from autotune.tasks.loading import Feed, PartFeed, batches, generator_of
from autotune.tasks.part import Part
from autotune.training.loop import Recipe
from autotune.training.prefix.cache import Keeper, Looked
from autotune.training.prefix.cache_stores import Memory, Place, Shelf
from autotune.training.prefix.cut import Cut, cut
from autotune.training.prefix.graph import Graph, graphs_of
from autotune.training.prefix.nodes import Untraceable
from autotune.training.prefix.observation import OBSERVED_EXAMPLES
from autotune.utils.events import tell
from autotune.utils.files import cache_folder
from autotune.utils.timings import spent


@dataclass(frozen=True)
class Keeping:
    """How much is kept of what the frozen network computes, and where."""

    memory: int = 0
    """Bytes of this process."""

    disk: int = 0
    """Bytes of files, which other workers and later searches find."""

    folder: Path | None = None
    """Of the files; None: in the user's cache folder."""

    dtype: str = "float32"
    """Of what is kept of float32 values; `bfloat16` takes half, and rounds."""

    views: int = 0
    """With augmentation: so many views of the training inputs, instead of a new one each epoch."""

    is_shared: bool = False
    """Whether workers of one machine share what is kept, so that all of it is files."""


class Behind(nn.Module):
    """The network behind a cut: live values in, logits out."""

    def __init__(self, network: nn.Module, cut: Cut) -> None:
        super().__init__()
        self.network = network
        self._program = cut.behind

    def forward(self, *live: Tensor) -> Tensor:
        (logits,) = self._program(*live)
        return logits  # type: ignore[no-any-return]


class Trunk:
    """Cuts a network where a plan begins, and keeps what the frozen part before it computes.

    One rule for changes of weights and for paths: what depends on nothing that trains is computed
    once for each example, and the rest reads it.
    """

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        keeping: Keeping,
        *,
        input: InputDescription | None,
        seed: int,
    ) -> None:
        self.network, self.recipe, self.keeping, self.input = network, recipe, keeping, input
        self.seed, self.device = seed, torch.device(recipe.device)
        self._graphs: list[Graph] | None = None
        self._keepers: list[Keeper] = []

    @property
    def keeps(self) -> bool:
        """Whether the frozen part need not run in every step."""
        is_there = any(keeper.places for keeper in self._keepers)
        return is_there and (self.recipe.augment == "none" or self.keeping.views > 0)

    def look(self, part: Part, about: Sequence[str]) -> None:
        """Trace the network once, with nothing on it, on some examples of a part.

        `about` tells what its values depend on beside its code: weights and preparation.
        """
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
        """What is kept; the weights or the preparation change."""
        self._keepers = []

    @spent("prefix")
    def _traced(self, part: Part) -> list[Graph]:
        few = part.take(torch.arange(OBSERVED_EXAMPLES).remainder(len(part)).numpy())
        inputs, _ = next(batches(few, OBSERVED_EXAMPLES, input=self.input, device=self.device))
        with self.recipe.autocast():
            found, why = graphs_of(self.network, inputs)
        if not found:
            tell("trunk", f"The network runs as a whole and nothing of it is kept: {why}.")
        return found

    def split(self, train: Part, val: Part, size: int) -> tuple[nn.Module, Feed, Feed]:
        """What is behind the cut for what is on the network now, and what it reads.

        The frozen part runs in batches of `size`. Without a cut, the network and its examples.
        """
        looked = [self._looked(train, self.recipe.augment), self._looked(val, "none")]
        why = ""
        for keeper in self._keepers:
            try:
                found = cut(keeper.graph, fuse_batchnorm=self.recipe.fuse_batchnorm)
            except Untraceable as error:
                why = str(error)
                continue
            train_feed, val_feed = keeper.feeds(found.live, looked, size)
            return Behind(self.network, found), train_feed, val_feed
        if why:
            tell("trunk", f"Here the network runs as a whole and nothing of it is kept: {why}.")
        return self.network, looked[0].plain, looked[1].plain

    def _looked(self, part: Part, augment: str) -> Looked:
        if augment == "none":
            return Looked(part, PartFeed(part, self.input, self.device), [("as it is", View())])
        generators = [generator_of(self.seed, at) for at in range(self.keeping.views)]
        views = [draw_view(augment, len(part), generator) for generator in generators]
        names = [f"{augment} {self.seed} {at}" for at in range(len(views))]
        plain = PartFeed(part, self.input, self.device, augment, views)
        return Looked(part, plain, list(zip(names, views, strict=True)))

    def _places(self) -> list[Place]:
        keeping, places = self.keeping, list[Place]()
        if keeping.memory and not keeping.is_shared:
            places.append(Memory(keeping.memory, self.device))
        if keeping.disk:
            places.append(Shelf(keeping.folder or cache_folder() / "trunk", keeping.disk))
        return places

    def _circumstances(self, graph: Graph) -> list[str]:
        """What last bits depend on."""
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
