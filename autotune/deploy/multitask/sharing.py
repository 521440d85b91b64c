"""Joint computation of several networks, in which equal calls on equal values run once.

Every call of a traced network gets a *slot* for its value. Calls of different tasks share a slot if
they apply the same function with the same tensors to the values of the same slots.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from autotune.deltas.paths import Touch
from autotune.training.prefix.attached import Attached
from autotune.training.prefix.graph import Graph
from autotune.training.prefix.nodes import is_boundary, read_by
from autotune.training.prefix.program import Function, function_of

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


class Joint:
    """Calls of all tasks in an order in which every call follows those it reads."""

    def __init__(self, graphs: Sequence[Graph]) -> None:
        self.calls: dict[int, SharedCall] = {}
        """Slot → call that fills it; slot 0 holds the input."""

        self.ends: list[int] = []
        """Slot of the logits, by task."""

        self._known: dict[object, int] = {}
        for task, graph in enumerate(graphs):
            network = _Network(self, task, graph)
            self.ends.append(network.number())
            for slot in (self.ends[task], *network.observers):
                self._mark(task, slot)
        places = graphs[0].places if graphs else {}
        needed = [slot for slot, call in self.calls.items() if call.tasks]
        self.order = sorted(needed, key=lambda slot: (places[self.calls[slot].node], slot))
        self._copied = self._overwritten(graphs[0]) if graphs else frozenset()
        self._lasts: dict[Tasks, dict[int, list[int]]] = {}

    def slot(self, key: object, call: SharedCall) -> int:
        """Slot of a call; a new one unless another call has the same key."""
        if key not in self._known:
            self._known[key] = len(self._known) + 1
            self.calls[self._known[key]] = call
        return self._known[key]

    def _mark(self, task: int, end: int) -> None:
        """Record that `task` needs the value in slot `end`, and everything it is computed from."""
        waiting = [end]
        while waiting:
            slot = waiting.pop()
            if slot and task not in self.calls[slot].tasks:
                self.calls[slot].tasks.add(task)
                waiting += self.calls[slot].reads

    def _overwritten(self, graph: Graph) -> frozenset[int]:
        """Slots whose value has several readers, one of which may modify it in place."""
        readers = Counter(read for slot in self.order for read in self.calls[slot].reads)
        nodes = {0: graph.input, **{slot: call.node for slot, call in self.calls.items()}}
        return frozenset(s for s, n in readers.items() if n > 1 and nodes[s] in graph.overwritten)

    def for_reader(self, slot: int, value: Any) -> Any:
        """Value of a slot for one reader; a copy if a reader may modify it in place."""
        return value.clone() if slot in self._copied else value

    def released_after(self, tasks: Tasks) -> dict[int, list[int]]:
        """Slot → slots whose values are not needed after its call when `tasks` are computed."""
        if tasks not in self._lasts:
            last: dict[int, int] = {}
            for slot in self.order:
                if self.calls[slot].tasks & tasks:
                    last |= dict.fromkeys(self._deep(slot), slot)
            released: dict[int, list[int]] = {}
            for read, slot in last.items():
                if read not in self.ends:
                    released.setdefault(slot, []).append(read)
            self._lasts[tasks] = released
        return self._lasts[tasks]

    def _deep(self, slot: int) -> Iterator[int]:
        """Slots that a call reads, and those that recomputing values without rows reads again."""
        for read in self.calls[slot].reads:
            yield read
            if read and not self.calls[read].has_rows:
                yield from self._deep(read)

    def all(self, inputs: Tensor) -> list[Tensor]:
        """Logits (n, classes) of every task for inputs (n, ...)."""
        values: dict[int, Any] = {0: inputs}
        ends = self.released_after(frozenset(range(len(self.ends))))
        for slot in self.order:
            values[slot] = self.calls[slot](lambda read: self.for_reader(read, values[read]))
            for read in ends.get(slot, ()):
                del values[read]
        return [values[end] for end in self.ends]

    def by_row(self, inputs: Tensor, tasks: Tensor) -> dict[int, Tensor]:
        """Task → logits of the examples with this task, in their order.

        `tasks` (n,) int64 holds the task of each example.
        """
        present = frozenset(tasks.unique().tolist())
        values, ends = _Values(self, inputs, tasks, present), self.released_after(present)
        for slot in self.order:
            computing = present & self.calls[slot].tasks
            if computing:
                values.compute(slot, computing)
            for read in ends.get(slot, ()):
                del values.values[read]
        return {task: values.take(self.ends[task], frozenset([task])) for task in present}


class _Network:
    """Network of one task; `number` assigns its calls to slots of the joint computation."""

    def __init__(self, joint: Joint, task: int, graph: Graph) -> None:
        self.joint, self.task, self.graph = joint, task, graph
        self.attached = Attached(graph)
        self.slots: dict[fx.Node, int] = {}
        self.observers: list[int] = []
        """Slots of calls that only record a value for a later call of a delta."""

    def number(self) -> int:
        """Assign every node to a slot and return the slot of the output."""
        for node in self.graph.nodes:
            self.slots[node] = self._slot(node)
        return self.slots[self.graph.output]

    def _slot(self, node: fx.Node) -> int:
        if node is self.graph.input:
            return 0
        if is_boundary(node):
            return self._boundary(node)
        function, identity = self._function(node)
        args = node.args, dict(node.kwargs)
        call = SharedCall(node, function, args, self.slots, node in self.graph.seen)
        read = repr(fx.node.map_arg(args, lambda n: f"slot {self.slots[n]}"))
        return self.joint.slot((node.name, identity, read), call)

    def _boundary(self, node: fx.Node) -> int:
        """Slot of a value between modules; a separate one if deltas of this task change it."""
        read = read_by(node)
        touches = self.attached.touches.get((node.target, str(node.args[1])), [])
        if not touches:
            return self.slots[read]
        call = SharedCall(node, _all(touches), ((read,), {}), self.slots, node in self.graph.seen)
        changed = self.joint.slot((self.task, node.name), call)
        if all(touch.only_looks for touch in touches):
            self.observers.append(changed)
            return self.slots[read]
        return changed

    def _is_hooked_inside(self, path: str) -> bool:
        """Whether a delta changes values inside of a layer that is a single node of the graph."""
        return any(hooked.startswith(f"{path}.") for hooked in self.attached.hooks)

    def _function(self, node: fx.Node) -> tuple[Function, object]:
        """Function of a node, and the identity of its tensors, by which tasks share the call."""
        root, path = self.graph.root, str(node.target)
        if node.op == "get_attr":
            owner, _, name = path.rpartition(".")
            return function_of(node, root), id(getattr(root.get_submodule(owner), name))
        if node.op != "call_module":
            return function_of(node, root), None
        layer = root.get_submodule(path)
        if path in self.attached.native or self._is_hooked_inside(path):
            return layer, (self.task, path)
        tensors = [*layer.parameters(), *layer.buffers()]
        forward = layer if self.graph.own_hooks(layer) else layer.forward
        return forward, tuple(map(id, tensors))


class _Values:
    """Values during one call of `Joint.by_row`.

    Every value is stored with the tasks whose examples it covers.
    """

    def __init__(self, joint: Joint, inputs: Tensor, tasks: Tensor, present: Tasks) -> None:
        self.joint, self.tasks = joint, tasks
        self.values: dict[int, tuple[Tasks, Any]] = {0: (present, inputs)}
        self._rows: dict[tuple[Tasks, Tasks], Tensor] = {}

    def compute(self, slot: int, tasks: Tasks) -> None:
        self.values[slot] = tasks, self.joint.calls[slot](lambda read: self.take(read, tasks))

    def take(self, slot: int, tasks: Tasks) -> Any:
        """Value of a slot for the examples of `tasks`, selected by row.

        A value without one row per example cannot be selected from and is recomputed.
        """
        known, value = self.values[slot]
        if known == tasks:
            return self.joint.for_reader(slot, value)
        if slot == 0 or self.joint.calls[slot].has_rows:
            return value[self._among(known, tasks)]
        return self.joint.calls[slot](lambda read: self.take(read, tasks))

    def _among(self, known: Tasks, tasks: Tasks) -> Tensor:
        """Positions of the rows of `tasks` among the rows of `known`."""
        if (known, tasks) not in self._rows:
            covered, wanted = (torch.isin(self.tasks, torch.tensor([*ts])) for ts in (known, tasks))
            self._rows[known, tasks] = wanted[covered].nonzero().flatten()
        return self._rows[known, tasks]


def _all(touches: list[Touch]) -> Function:
    def change(value: Any) -> Any:
        for touch in touches:
            value = touch(value)
        return value

    return change
