"""Programs: sequences of calls that compute nodes of a graph."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import methodcaller
from typing import Any

from torch import fx, nn

Function = Callable[..., Any]


@dataclass(frozen=True, eq=False)
class Step:
    """One call; nodes among its arguments stand for their values."""

    node: fx.Node
    function: Function
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def reads(self) -> list[fx.Node]:
        """Nodes whose values it reads, without repetition."""
        nodes: dict[fx.Node, None] = {}
        fx.node.map_arg((self.args, dict(self.kwargs)), nodes.setdefault)
        return list(nodes)


class Program:
    """Steps from known values to wanted ones; a value is freed after its last use.

    Wanted values that a later step may change in place (`copied`) are copied.
    """

    def __init__(
        self,
        steps: Iterable[Step],
        known: Sequence[fx.Node],
        wanted: Sequence[fx.Node],
        *,
        copied: Container[fx.Node] = (),
    ) -> None:
        self.steps, self._wanted = list(steps), frozenset(wanted)
        places: dict[fx.Node, int] = {}
        for node in (*known, *(step.node for step in self.steps)):
            places.setdefault(node, len(places))
        self._size, self._places = len(places), [places[node] for node in wanted]
        self._copied = {places[node]: at for at, node in enumerate(wanted) if node in copied}
        last = {node: at for at, step in enumerate(self.steps) for node in step.reads()}
        ends: dict[int, list[int]] = {}
        for node, at in last.items():
            if node not in wanted:
                ends.setdefault(at, []).append(places[node])
        self._calls = [
            (_call(step, places), places[step.node], ends.get(at, ()))
            for at, step in enumerate(self.steps)
        ]

    def needs(self, node: fx.Node) -> bool:
        """Whether the value of a known node is wanted or read by a step."""
        return node in self._wanted or any(node in step.reads() for step in self.steps)

    def __call__(self, *known: Any) -> tuple[Any, ...]:
        values = [*known, *[None] * (self._size - len(known))]
        copies = {
            at: known[place].clone() for place, at in self._copied.items() if place < len(known)
        }
        for call, place, ends in self._calls:
            values[place] = call(values)
            if place in self._copied:
                copies[self._copied[place]] = values[place].clone()
            for end in ends:
                values[end] = None
        wanted = (values[place] for place in self._places)
        return tuple(copies.get(at, value) for at, value in enumerate(wanted))


def function_of(node: fx.Node, root: nn.Module) -> Function:
    """Function that a node calls; parameters are looked up at every call."""
    if node.op == "call_module":
        return root.get_submodule(str(node.target))
    if node.op == "call_method":
        name = str(node.target)
        return lambda first, *args, **kwargs: methodcaller(name, *args, **kwargs)(first)
    if node.op == "get_attr":
        path, _, name = str(node.target).rpartition(".")
        owner = root.get_submodule(path)
        return lambda: getattr(owner, name)
    assert callable(node.target)
    return node.target


def _call(step: Step, places: Mapping[fx.Node, int]) -> Callable[[list[Any]], Any]:
    function, args, kwargs = step.function, step.args, step.kwargs
    if not kwargs and all(isinstance(arg, fx.Node) for arg in args):
        reads = [places[arg] for arg in args]
        if len(reads) == 1:
            (read,) = reads
            return lambda values: function(values[read])
        return lambda values: function(*[values[read] for read in reads])

    def call(values: list[Any]) -> Any:
        positional, named = fx.node.map_arg((args, dict(kwargs)), lambda node: values[places[node]])
        return function(*positional, **named)

    return call
