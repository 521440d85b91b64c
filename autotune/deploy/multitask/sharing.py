"""What several networks compute in common: equal calls on equal values are one call."""

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


@dataclass(eq=False)
class SharedCall:
    """One call, for all tasks whose networks make it with the same weights on the same values."""

    node: fx.Node
    function: Function
    args: Any
    """Its arguments, the values among them as nodes."""

    slots: Mapping[fx.Node, int]
    """Node → where its value is, in the networks of these tasks."""

    has_rows: bool
    """Whether row i of what it gives belongs to example i alone."""

    tasks: set[int] = field(default_factory=set)

    @property
    def reads(self) -> list[int]:
        found: dict[int, None] = {}
        fx.node.map_arg(self.args, lambda node: found.setdefault(self.slots[node]))
        return list(found)

    def __call__(self, value: Callable[[int], Any]) -> Any:
        args, kwargs = fx.node.map_arg(self.args, lambda node: value(self.slots[node]))
        return self.function(*args, **kwargs)


class Joint:
    """The calls of all tasks, in an order in which each finds what it reads."""

    def __init__(self, graphs: Sequence[Graph]) -> None:
        self.calls: dict[int, SharedCall] = {}
        """Slot → what fills it; slot 0 holds the input."""

        self.ends: list[int] = []
        """Task → the slot of its logits."""

        self._known: dict[object, int] = {}
        for task, graph in enumerate(graphs):
            network = _Network(self, task, graph)
            self.ends.append(network.number())
            for slot in (self.ends[task], *network.looks):
                self._mark(task, slot)
        places = graphs[0].places if graphs else {}
        asked = [slot for slot, call in self.calls.items() if call.tasks]
        self.order = sorted(asked, key=lambda slot: (places[self.calls[slot].node], slot))
        self._copied = self._overwritten(graphs[0]) if graphs else frozenset()
        self._lasts: dict[Tasks, dict[int, list[int]]] = {}

    def slot(self, key: object, call: SharedCall) -> int:
        """Where the value of a call is; the call is new where no other has this key."""
        if key not in self._known:
            self._known[key] = len(self._known) + 1
            self.calls[self._known[key]] = call
        return self._known[key]

    def _mark(self, task: int, end: int) -> None:
        waiting = [end]
        while waiting:
            slot = waiting.pop()
            if slot and task not in self.calls[slot].tasks:
                self.calls[slot].tasks.add(task)
                waiting += self.calls[slot].reads

    def _overwritten(self, graph: Graph) -> frozenset[int]:
        """Slots that a call may change in place, and that others read, too."""
        readers = Counter(read for slot in self.order for read in self.calls[slot].reads)
        nodes = {0: graph.input, **{slot: call.node for slot, call in self.calls.items()}}
        return frozenset(s for s, n in readers.items() if n > 1 and nodes[s] in graph.overwritten)

    def given(self, slot: int, value: Any) -> Any:
        """A value for one of its readers."""
        return value.clone() if slot in self._copied else value

    def let_go(self, tasks: Tasks) -> dict[int, list[int]]:
        """Slot → the values that nobody reads any more after its call, where these tasks ask."""
        if tasks not in self._lasts:
            last: dict[int, int] = {}
            for slot in self.order:
                if self.calls[slot].tasks & tasks:
                    last |= dict.fromkeys(self._deep(slot), slot)
            found: dict[int, list[int]] = {}
            for read, slot in last.items():
                if read not in self.ends:
                    found.setdefault(slot, []).append(read)
            self._lasts[tasks] = found
        return self._lasts[tasks]

    def _deep(self, slot: int) -> Iterator[int]:
        """What a call reads, and what that is computed anew from where it has no rows."""
        for read in self.calls[slot].reads:
            yield read
            if read and not self.calls[read].has_rows:
                yield from self._deep(read)

    def all(self, inputs: Tensor) -> list[Tensor]:
        """Logits of every task for every example."""
        values: dict[int, Any] = {0: inputs}
        ends = self.let_go(frozenset(range(len(self.ends))))
        for slot in self.order:
            values[slot] = self.calls[slot](lambda read: self.given(read, values[read]))
            for read in ends.get(slot, ()):
                del values[read]
        return [values[end] for end in self.ends]

    def by_row(self, inputs: Tensor, tasks: Tensor) -> dict[int, Tensor]:
        """Task → logits of the examples that ask for it, in their order.

        `tasks` (n) has one task for each example.
        """
        present = frozenset(tasks.unique().tolist())
        values, ends = _Values(self, inputs, tasks, present), self.let_go(present)
        for slot in self.order:
            mine = present & self.calls[slot].tasks
            if mine:
                values.compute(slot, mine)
            for read in ends.get(slot, ()):
                del values.values[read]
        return {task: values.take(self.ends[task], frozenset([task])) for task in present}


class _Network:
    """One task's network, its calls given their slots."""

    def __init__(self, joint: Joint, task: int, graph: Graph) -> None:
        self.joint, self.task, self.graph = joint, task, graph
        self.attached = Attached(graph)
        self.slots: dict[fx.Node, int] = {}
        self.looks: list[int] = []
        """Slots of calls that only look at a value, for a later one."""

    def number(self) -> int:
        for node in self.graph.nodes:
            self.slots[node] = self._slot(node)
        return self.slots[self.graph.output]

    def _slot(self, node: fx.Node) -> int:
        if node is self.graph.input:
            return 0
        if is_boundary(node):
            return self._boundary(node)
        function, own = self._function(node)
        args = node.args, dict(node.kwargs)
        call = SharedCall(node, function, args, self.slots, node in self.graph.seen)
        read = repr(fx.node.map_arg(args, lambda n: f"slot {self.slots[n]}"))
        return self.joint.slot((node.name, own, read), call)

    def _boundary(self, node: fx.Node) -> int:
        """Where deltas change what passes, a value of this task's own; else the same."""
        read = read_by(node)
        touches = self.attached.touches.get((node.target, str(node.args[1])), [])
        if not touches:
            return self.slots[read]
        call = SharedCall(node, _all(touches), ((read,), {}), self.slots, node in self.graph.seen)
        mine = self.joint.slot((self.task, node.name), call)
        if all(touch.only_looks for touch in touches):
            self.looks.append(mine)
            return self.slots[read]
        return mine

    def _is_hooked_inside(self, path: str) -> bool:
        """Whether a delta changes what passes inside of a layer that is a single node."""
        return any(hooked.startswith(f"{path}.") for hooked in self.attached.hooks)

    def _function(self, node: fx.Node) -> tuple[Function, object]:
        """What a node calls, and what other tasks must have for the same: its very tensors."""
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
    """Values of one batch in which each example asks for one task."""

    def __init__(self, joint: Joint, inputs: Tensor, tasks: Tensor, present: Tasks) -> None:
        self.joint, self.tasks = joint, tasks
        self.values: dict[int, tuple[Tasks, Any]] = {0: (present, inputs)}
        self._rows: dict[tuple[Tasks, Tasks], Tensor] = {}

    def compute(self, slot: int, tasks: Tasks) -> None:
        self.values[slot] = tasks, self.joint.calls[slot](lambda read: self.take(read, tasks))

    def take(self, slot: int, tasks: Tasks) -> Any:
        """A value for the examples of some of its tasks; what has no rows is computed anew."""
        known, value = self.values[slot]
        if known == tasks:
            return self.joint.given(slot, value)
        if slot == 0 or self.joint.calls[slot].has_rows:
            return value[self._among(known, tasks)]
        return self.joint.calls[slot](lambda read: self.take(read, tasks))

    def _among(self, known: Tasks, tasks: Tasks) -> Tensor:
        """Which rows of a value of some tasks belong to fewer of them."""
        if (known, tasks) not in self._rows:
            among, wanted = (torch.isin(self.tasks, torch.tensor([*ts])) for ts in (known, tasks))
            self._rows[known, tasks] = wanted[among].nonzero().flatten()
        return self._rows[known, tasks]


def _all(touches: list[Touch]) -> Function:
    def change(value: Any) -> Any:
        for touch in touches:
            value = touch(value)
        return value

    return change
