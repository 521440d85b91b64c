"""Cache of the frozen part: values before a cut are computed once and stored if they fit."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx

from autotune.backbones.inputs import InputDescription
from autotune.tasks.augment import View
from autotune.tasks.loading import Feed, in_rows
from autotune.tasks.part import Part
from autotune.training.loop import Recipe
from autotune.training.prefix.cache_stores import Place
from autotune.training.prefix.cut import before
from autotune.training.prefix.feeds import ComputedFeed, FrozenStep, KeptFeed
from autotune.training.prefix.frontier import Frontier, frontiers
from autotune.training.prefix.graph import Graph
from autotune.training.prefix.program import Program
from autotune.utils.events import warn
from autotune.utils.filesystems import is_full
from autotune.utils.timings import spent

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""Setting → dtype in which float32 values are stored."""


@dataclass(frozen=True, eq=False)
class ViewedPart:
    """Part with its augmented views."""

    part: Part
    plain: Feed
    """Feed of the examples, for when nothing is cached."""

    views: Sequence[tuple[str, View]]
    """(name, view); empty if every epoch draws a new view, so that nothing can be cached."""


@dataclass
class Keeper:
    """Caches values of one graph in memory or files (`places`).

    `about` describes everything on which values depend in addition to the graph; it is part of
    their names. A value from an earlier process is trusted after one batch was computed again and
    was equal.
    """

    graph: Graph
    places: list[Place]
    input: InputDescription | None
    recipe: Recipe
    dtype: str
    about: str
    _frontiers: dict[tuple[fx.Node, ...], list[Frontier]] = field(default_factory=dict)
    _digests: dict[int, tuple[Part, str]] = field(default_factory=dict)
    _trusted: set[str] = field(default_factory=set)
    """Names of values that this process has computed or compared."""

    @property
    def device(self) -> torch.device:
        return torch.device(self.recipe.device)

    def feeds(self, live: Sequence[fx.Node], viewed: Sequence[ViewedPart], size: int) -> list[Feed]:
        """Feeds of live values for several parts, which share the limits of the places.

        Values are computed in batches of `size`.
        """
        rooms = {id(place): place.limit for place in self.places}
        with spent("prefix"):
            return [self._feed(live, each, size, rooms) for each in viewed]

    def _feed(
        self, live: Sequence[fx.Node], viewed: ViewedPart, size: int, rooms: dict[int, int]
    ) -> Feed:
        while (best := self._best(live, viewed, rooms)) is not None:
            frontier, place = best
            try:
                kept = self._kept(frontier.nodes, viewed, place, size)
            except OSError as error:
                self._give_up(place, error)
                continue
            rooms[id(place)] -= self._nbytes(frontier, viewed)
            return self._computed_feed(kept, frontier.nodes, live, size)
        return self._computed_feed(viewed.plain, [self.graph.input], live, size)

    def _computed_feed(
        self, feed: Feed, known: Sequence[fx.Node], live: Sequence[fx.Node], size: int
    ) -> Feed:
        program = before(self.graph, live, known)
        return ComputedFeed(feed, FrozenStep(program, self.recipe, size)) if program.steps else feed

    def _best(
        self, live: Sequence[fx.Node], viewed: ViewedPart, rooms: Mapping[int, int]
    ) -> tuple[Frontier, Place] | None:
        """Fastest frontier and place; None if recomputing everything is fastest."""
        first, *others = self._frontiers_of(tuple(live))
        least, best = first.seconds, None
        for frontier in others if viewed.views else []:
            for place in self.places:
                if self._nbytes(frontier, viewed) > rooms[id(place)]:
                    continue
                seconds = frontier.seconds + self._row_bytes(frontier) / place.rate
                if seconds < least:
                    least, best = seconds, (frontier, place)
        return best

    def _frontiers_of(self, live: tuple[fx.Node, ...]) -> list[Frontier]:
        if live not in self._frontiers:
            self._frontiers[live] = frontiers(self.graph, live)
        return self._frontiers[live]

    def _nbytes(self, frontier: Frontier, viewed: ViewedPart) -> int:
        return self._row_bytes(frontier) * len(viewed.part) * len(viewed.views)

    def _row_bytes(self, frontier: Frontier) -> int:
        seen = self.graph.seen
        return sum(math.prod(seen[n].shape) * self._dtype(n).itemsize for n in frontier.nodes)

    def _dtype(self, node: fx.Node) -> torch.dtype:
        seen = self.graph.seen[node].dtype
        return DTYPES[self.dtype] if seen == torch.float32 else seen

    def _give_up(self, place: Place, error: OSError) -> None:
        self.places.remove(place)
        why = "the disk is full" if is_full(error) else str(error)
        warn(
            f"Outputs of the frozen network can no longer be cached in files ({why}), so trials "
            "take longer. Make room, or set --cache-disk 0."
        )

    def _kept(
        self, nodes: Sequence[fx.Node], viewed: ViewedPart, place: Place, size: int
    ) -> KeptFeed:
        views = [
            self._values(nodes, _Pass(viewed.part, name, view, place, size))
            for name, view in viewed.views
        ]
        dtypes = [self.graph.seen[node].dtype for node in nodes]
        return KeptFeed(views, dtypes, torch.from_numpy(viewed.part.labels), self.device)

    def _values(self, nodes: Sequence[fx.Node], pass_: _Pass) -> list[Tensor]:
        names = [self._name(node, pass_) for node in nodes]
        with pass_.place.alone(_digest(names)):
            missing = [node for node in nodes if not self._holds(node, pass_)]
            if missing:
                self._make(missing, pass_)
            tensors = [pass_.place.find(name) for name in names]
        if any(tensor is None for tensor in tensors):
            raise OSError("another process took the room")
        return [tensor for tensor in tensors if tensor is not None]

    def _holds(self, node: fx.Node, pass_: _Pass) -> bool:
        """Whether a value is stored whose first batch equals the network's present output."""
        name = self._name(node, pass_)
        tensor = pass_.place.find(name)
        if tensor is None or name in self._trusted:
            return tensor is not None
        program = before(self.graph, [node], [self.graph.input])
        first = torch.arange(min(pass_.size, len(pass_.part)))
        ((rows,),) = self._computed(program, [], pass_, first)
        if not _is_equal(rows.to(tensor.dtype), tensor[: len(rows)].to(rows.device)):
            return False
        self._trusted.add(name)
        return True

    def _make(self, nodes: Sequence[fx.Node], pass_: _Pass) -> None:
        """Compute values from the nearest stored ones, or from the examples, and store them."""
        known = self._known(nodes, pass_)
        program = before(self.graph, nodes, [*known, self.graph.input])
        at, n = 0, len(pass_.part)
        with ExitStack() as stack:
            tensors = [stack.enter_context(self._making(node, pass_)) for node in nodes]
            for values in self._computed(program, known, pass_, torch.arange(n)):
                for tensor, rows in zip(tensors, values, strict=True):
                    tensor[at : at + len(rows)] = rows
                at += len(values[0])
        self._trusted.update(self._name(node, pass_) for node in nodes)

    def _making(self, node: fx.Node, pass_: _Pass) -> AbstractContextManager[Tensor]:
        shape = len(pass_.part), *self.graph.seen[node].shape
        return pass_.place.making(self._name(node, pass_), shape, self._dtype(node))

    def _known(self, nodes: Sequence[fx.Node], pass_: _Pass) -> list[fx.Node]:
        """Nearest stored values from which others can be computed, except rounded ones."""
        steps = before(self.graph, nodes, [self.graph.input]).steps
        others = [step.node for step in steps if step.node not in nodes]
        kept = [node for node in others if self._is_there(node, pass_)]
        while True:
            program = before(self.graph, nodes, [*kept, self.graph.input])
            nearest = [node for node in kept if program.needs(node)]
            invalid = [node for node in nearest if not self._holds(node, pass_)]
            if not invalid:
                return nearest
            kept = [node for node in kept if node not in invalid]

    def _is_there(self, node: fx.Node, pass_: _Pass) -> bool:
        if node not in self.graph.seen or self._dtype(node) != self.graph.seen[node].dtype:
            return False
        return self._name(node, pass_) in pass_.place

    def _computed(
        self, program: Program, known: Sequence[fx.Node], pass_: _Pass, rows: Tensor
    ) -> Iterator[tuple[Tensor, ...]]:
        """Outputs of a program from stored values and the examples, batch by batch."""
        step = FrozenStep(program, self.recipe, pass_.size)
        kept = [pass_.place.find(self._name(node, pass_)) for node in known]
        needs_examples = program.needs(self.graph.input)
        examples = pass_.examples(rows, self.input, self.device) if needs_examples else None
        for some in rows.split(pass_.size):
            values = [t[some].to(self.device) for t in kept if t is not None]
            # The program has an argument for the input even if it does not need it.
            yield step((*values, next(examples) if examples is not None else values[0]))

    def _name(self, node: fx.Node, pass_: _Pass) -> str:
        if id(pass_.part) not in self._digests:
            self._digests[id(pass_.part)] = pass_.part, pass_.part.digest()
        _, digest = self._digests[id(pass_.part)]
        return _digest([self.about, digest, pass_.name, node.name, str(pass_.size), self.dtype])


@dataclass(frozen=True, eq=False)
class _Pass:
    """Part in one view, and the place for its values."""

    part: Part
    name: str
    view: View
    place: Place
    size: int

    def examples(
        self, rows: Tensor, input: InputDescription | None, device: torch.device
    ) -> Iterator[Tensor]:
        """Batches of inputs for the network."""
        batches = in_rows(self.part, rows, self.size, input=input, device=device)
        for (inputs, _), some in zip(batches, rows.split(self.size), strict=True):
            yield self.view(inputs, some)


def _digest(texts: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()[:32]


def _is_equal(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.nan_to_num(), b.nan_to_num())
