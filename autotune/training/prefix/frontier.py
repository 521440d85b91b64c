"""Frontiers: sets of values that can be cached for a cut, live ones or earlier, smaller ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import fx

from autotune.training.prefix.cut import before
from autotune.training.prefix.graph import Graph


@dataclass(frozen=True, eq=False)
class Frontier:
    """Values that suffice to compute a cut's live values."""

    nodes: tuple[fx.Node, ...]
    seconds: float
    """Estimated time per example from these values to the live ones, in seconds."""


def frontiers(graph: Graph, live: Sequence[fx.Node]) -> list[Frontier]:
    """Frontiers from the input to the live values, the input first.

    After each step, the values that later steps read are a frontier if all can be cached.
    """
    program = before(graph, live, [graph.input])
    readers = Counter(node for step in program.steps for node in step.reads())
    readers.update(live)
    left = sum(graph.seconds[step.node] for step in program.steps)
    open_ = {graph.input: readers[graph.input]}
    result = [Frontier((graph.input,), left)]
    for step in program.steps:
        left -= graph.seconds[step.node]
        for node in step.reads():
            open_[node] -= 1
        open_[step.node] = readers[step.node]
        open_ = {node: n for node, n in open_.items() if n}
        if all(node in graph.seen for node in open_):
            result.append(Frontier(_sorted(graph, open_), left))
    return result


def _sorted(graph: Graph, nodes: Iterable[fx.Node]) -> tuple[fx.Node, ...]:
    return tuple(sorted(nodes, key=graph.places.__getitem__))
