"""Joint computation of several networks, in which equal calls on equal values run once.

Every call of a traced network gets a *slot* for its value. Calls of different tasks share a slot if
they apply the same function with the same tensors to the values of the same slots.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from threading import RLock
from typing import Any

from torch import fx

from autotune.deltas.paths import Touch
from autotune.deploy.multitask.program import Program, SharedCall, Tasks, released_after
from autotune.training.prefix.attached import Attached
from autotune.training.prefix.graph import Graph
from autotune.training.prefix.nodes import is_boundary, read_by
from autotune.training.prefix.program import Function, function_of

PROGRAMS = 128
"""Most programs that are kept; one for each set of tasks that are computed together.

A batch of a busy server may have any set of tasks; a program of a few tasks takes 0.1 ms to make.
"""


class TaskRemoved(LookupError):
    """A task was removed by another thread."""


@dataclass(frozen=True)
class _Nodes:
    """Facts of a graph that hold for every network of its shape, without the network."""

    input: fx.Node
    places: Mapping[fx.Node, int]
    overwritten: Container[fx.Node]


class Joint:
    """Calls of tasks that are added and removed one by one, each in time for that task alone."""

    def __init__(self) -> None:
        self.calls: dict[int, SharedCall] = {}
        """Slot → call that fills it; slot 0 holds the input."""

        self._keys: dict[int, object] = {}
        self._known: dict[object, int] = {}
        self._slots, self._numbers = count(1), count()
        self._ends: dict[int, int] = {}
        self._needed: dict[int, list[int]] = {}
        """Task → slots of its calls, in an order in which every call follows those it reads."""

        self._nodes: _Nodes | None = None
        """Nodes of the backbone's graph, which those of all tasks have."""

        self._programs: OrderedDict[Tasks, Program] = OrderedDict()
        self._lock = RLock()

    def add(self, graph: Graph) -> int:
        """Add the network of a task and return the task's number."""
        with self._lock:
            if self._nodes is None:
                self._nodes = _Nodes(graph.input, graph.places, graph.overwritten)
            task = next(self._numbers)
            network = _Network(self, task, graph)
            try:
                self._ends[task] = network.number()
                needed = self._before([self._ends[task], *network.observers])
                for slot in needed:
                    self.calls[slot].tasks.add(task)
                self._needed[task] = sorted(needed, key=self._place)
            finally:
                self._drop(set(network.slots.values()) | network.changed)
        return task

    def remove(self, task: int) -> None:
        """Remove a task and the calls that no other task needs."""
        with self._lock:
            slots = self._needed.pop(task)
            del self._ends[task]
            for slot in slots:
                self.calls[slot].tasks.discard(task)
            self._drop(slots)
            self._programs.clear()

    def slot(self, key: object, call: SharedCall) -> int:
        """Slot of a call; a new one unless another call has the same key."""
        if key not in self._known:
            slot = self._known[key] = next(self._slots)
            self.calls[slot], self._keys[slot] = call, key
        return self._known[key]

    def _before(self, ends: Sequence[int]) -> set[int]:
        """Slots of some values and of everything that they are computed from."""
        waiting, needed = list(ends), set[int]()
        while waiting:
            slot = waiting.pop()
            if slot and slot not in needed:
                needed.add(slot)
                waiting += self.calls[slot].reads
        return needed

    def _drop(self, slots: Iterable[int]) -> None:
        """Remove those of some calls that no task needs."""
        for slot in slots:
            if slot in self.calls and not self.calls[slot].tasks:
                del self.calls[slot], self._known[self._keys.pop(slot)]

    def _place(self, slot: int) -> tuple[int, int]:
        assert self._nodes is not None
        return self._nodes.places[self.calls[slot].node], slot

    def program(self, tasks: Tasks) -> Program:
        """Program of a set of tasks; raises `TaskRemoved` if one of them was."""
        with self._lock:
            if tasks not in self._programs:
                self._programs[tasks] = self._made(tasks)
                while len(self._programs) > PROGRAMS:
                    self._programs.popitem(last=False)
            self._programs.move_to_end(tasks)
            return self._programs[tasks]

    def _made(self, tasks: Tasks) -> Program:
        if not tasks <= self._needed.keys():
            raise TaskRemoved
        needing: dict[int, set[int]] = {}
        for task in tasks:
            for slot in self._needed[task]:
                needing.setdefault(slot, set()).add(task)
        order = sorted(needing, key=self._place)
        calls = {slot: self.calls[slot] for slot in order}
        ends = {task: self._ends[task] for task in sorted(tasks)}
        return Program(
            calls,
            {slot: frozenset(needing[slot]) for slot in order},
            ends,
            released_after(calls, set(ends.values())),
            self._overwritten(calls),
        )

    def _overwritten(self, calls: Mapping[int, SharedCall]) -> Tasks:
        """Slots whose value has several readers, one of which may modify it in place."""
        if self._nodes is None:
            return frozenset()
        readers = Counter(read for call in calls.values() for read in call.reads)
        nodes = {0: self._nodes.input, **{slot: call.node for slot, call in calls.items()}}
        overwritten = self._nodes.overwritten
        return frozenset(s for s, n in readers.items() if n > 1 and nodes[s] in overwritten)


class _Network:
    """Network of one task; `number` assigns its calls to slots of the joint computation."""

    def __init__(self, joint: Joint, task: int, graph: Graph) -> None:
        self.joint, self.task, self.graph = joint, task, graph
        self.attached = Attached(graph)
        self.slots: dict[fx.Node, int] = {}
        self.changed: set[int] = set()
        """Slots of values that deltas of this task change or look at."""

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
        self.changed.add(changed)
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


def _all(touches: list[Touch]) -> Function:
    def change(value: Any) -> Any:
        for touch in touches:
            value = touch(value)
        return value

    return change
