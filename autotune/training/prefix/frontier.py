"""Which values are kept for a cut: its live values, or earlier ones that take less room."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import fx

from autotune.training.prefix.cut import before
from autotune.training.prefix.graph import Graph


@dataclass(frozen=True, eq=False)
class Frontier:
    """Values from which a cut's live values are computed without going further back."""

    nodes: tuple[fx.Node, ...]
    seconds: float
    """That the way from here to the live values takes for one example, about."""


def frontiers(graph: Graph, live: Sequence[fx.Node]) -> list[Frontier]:
    """Those on the way from the input to live values: the input first, the live values last.

    Behind each step there are the values that are read later; it counts where all of them can be
    kept.
    """
    way = before(graph, live, [graph.input])
    readers = Counter(node for step in way.steps for node in step.reads())
    readers.update(live)
    left = sum(graph.seconds[step.node] for step in way.steps)
    open_ = {graph.input: readers[graph.input]}
    found = [Frontier((graph.input,), left)]
    for step in way.steps:
        left -= graph.seconds[step.node]
        for node in step.reads():
            open_[node] -= 1
        open_[step.node] = readers[step.node]
        open_ = {node: n for node, n in open_.items() if n}
        if all(node in graph.seen for node in open_):
            found.append(Frontier(_sorted(graph, open_), left))
    return found


def _sorted(graph: Graph, nodes: Iterable[fx.Node]) -> tuple[fx.Node, ...]:
    return tuple(sorted(nodes, key=graph.places.__getitem__))
