"""Programs: calls that compute the logits of a set of tasks, those that are shared only once."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from autotune.training.prefix.program import Function

Tasks = frozenset[int]
"""Numbers of tasks."""


@dataclass(eq=False)
class SharedCall:
    """One call, shared by all tasks that make it with the same weights on the same values."""

    node: fx.Node
    function: Function
    args: Any
    """Positional and keyword arguments, in which values are nodes."""

    slots: Mapping[fx.Node, int]
    """Node → slot of its value, in the networks of these tasks."""

    has_rows: bool
    """Whether row i of the result depends on example i only."""

    tasks: set[int] = field(default_factory=set)

    @property
    def reads(self) -> list[int]:
        """Slots of the arguments, without duplicates."""
        slots: dict[int, None] = {}
        fx.node.map_arg(self.args, lambda node: slots.setdefault(self.slots[node]))
        return list(slots)

    def __call__(self, value: Callable[[int], Any]) -> Any:
        args, kwargs = fx.node.map_arg(self.args, lambda node: value(self.slots[node]))
        return self.function(*args, **kwargs)


@dataclass(frozen=True)
class Program:
    """Calls that compute a set of tasks; it stays valid when tasks are added or removed."""

    calls: Mapping[int, SharedCall]
    """Slot → call that fills it, in an order in which every call follows those it reads."""

    tasks: Mapping[int, Tasks]
    """Slot → tasks of the set that need its value."""

    ends: Mapping[int, int]
    """Task → slot of its logits."""

    released: Mapping[int, list[int]]
    """Slot → slots whose values are not needed after its call."""

    copied: frozenset[int]
    """Slots whose value has several readers, one of which may modify it in place."""

    def for_reader(self, slot: int, value: Any) -> Any:
        """Value of a slot for one reader; a copy if a reader may modify it in place."""
        return value.clone() if slot in self.copied else value

    def all(self, inputs: Tensor, tasks: Sequence[int]) -> list[Tensor]:
        """Logits (n, classes) of each of the tasks for inputs (n, ...)."""
        values: dict[int, Any] = {0: inputs}
        for slot, call in self.calls.items():
            values[slot] = call(lambda read: self.for_reader(read, values[read]))
            for read in self.released.get(slot, ()):
                del values[read]
        return [values[self.ends[task]] for task in tasks]

    def by_row(self, inputs: Tensor, tasks: Tensor) -> dict[int, Tensor]:
        """Task → logits of the examples with this task, in their order.

        `tasks` (n,) int64 holds the task of each example; every task of the program has one.
        """
        values = _Values(self, inputs, tasks)
        for slot in self.calls:
            values.compute(slot, self.tasks[slot])
            for read in self.released.get(slot, ()):
                del values.values[read]
        return {task: values.take(end, frozenset([task])) for task, end in self.ends.items()}


class _Values:
    """Values during one call of `Program.by_row`.

    Every value is stored with the tasks whose examples it covers.
    """

    def __init__(self, program: Program, inputs: Tensor, tasks: Tensor) -> None:
        self.program, self.tasks = program, tasks
        self.values: dict[int, tuple[Tasks, Any]] = {0: (frozenset(program.ends), inputs)}
        self._rows: dict[tuple[Tasks, Tasks], Tensor] = {}

    def compute(self, slot: int, tasks: Tasks) -> None:
        self.values[slot] = tasks, self.program.calls[slot](lambda read: self.take(read, tasks))

    def take(self, slot: int, tasks: Tasks) -> Any:
        """Value of a slot for the examples of `tasks`, selected by row.

        A value without one row per example cannot be selected from and is recomputed.
        """
        known, value = self.values[slot]
        if known == tasks:
            return self.program.for_reader(slot, value)
        if slot == 0 or self.program.calls[slot].has_rows:
            return value[self._among(known, tasks)]
        return self.program.calls[slot](lambda read: self.take(read, tasks))

    def _among(self, known: Tasks, tasks: Tasks) -> Tensor:
        """Positions of the rows of `tasks` among the rows of `known`."""
        if (known, tasks) not in self._rows:
            covered, wanted = (torch.isin(self.tasks, torch.tensor([*ts])) for ts in (known, tasks))
            self._rows[known, tasks] = wanted[covered].nonzero().flatten()
        return self._rows[known, tasks]


def released_after(calls: Mapping[int, SharedCall], ends: Container[int]) -> dict[int, list[int]]:
    """Slot → slots whose values are not needed after its call."""
    last: dict[int, int] = {}
    for slot in calls:
        last |= dict.fromkeys(_deep(calls, slot), slot)
    released: dict[int, list[int]] = {}
    for read, slot in last.items():
        if read not in ends:
            released.setdefault(slot, []).append(read)
    return released


def _deep(calls: Mapping[int, SharedCall], slot: int) -> Iterator[int]:
    """Slots that a call reads, and those that recomputing values without rows reads again."""
    for read in calls[slot].reads:
        yield read
        if read and not calls[read].has_rows:
            yield from _deep(calls, read)
