"""Several deltas on one backbone at once."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from autotune.adapt import settle
from autotune.artifact import Artifact, read_artifact
from autotune.backbones.base import Backbone, fingerprint
from autotune.backbones.inputs import some_inputs
from autotune.errors import ArtifactError, unknown
from autotune.events import tell
from autotune.mount import described, input_of, load_adapted
from autotune.multitask.sharing import Joint
from autotune.trunk.attached import Attached
from autotune.trunk.graph import Graph
from autotune.trunk.nodes import Untraceable


@dataclass(frozen=True, eq=False)
class _Task:
    """One task: a network of its own, whose frozen tensors are the backbone's."""

    artifact: Artifact
    network: nn.Module
    graph: Graph | None
    """None where it runs as a whole, as it has no graph."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Of its logits, in their order."""
        named = self.artifact.header.get("task", {}).get("classes", [])
        return tuple(map(str, named))


@dataclass(frozen=True, eq=False)
class _Joined:
    """The tasks at one moment, and what their networks compute together."""

    tasks: Mapping[str, _Task]
    joint: Joint

    @classmethod
    def of(cls, tasks: Mapping[str, _Task]) -> _Joined:
        return cls(tasks, Joint([task.graph for task in tasks.values() if task.graph]))

    @property
    def names(self) -> list[str]:
        """Those with a graph, in the order of the joint's tasks."""
        return [name for name, task in self.tasks.items() if task.graph]


class MultiTask:
    """Answers for several tasks of one backbone; what their networks have in common runs once.

    `deltas` are delta files by name. Equal calls on equal values are one call: the frozen part up
    to the first layer that differs between tasks, prepared statistics of normalisation included
    (tasks that were tuned with `--bnstats off` share all of it); then each task its own rest. For
    one batch with all tasks (`multi(x)`) outputs are bit for bit those of each task's own network.
    With a task for each example (`by_row`) each task's examples are a batch of their own from where
    it differs, so that last bits may differ as they do between sizes of batches.

    The backbone is never changed, nor is any task when another is added or removed. The idea is
    SubTuning's (arXiv 2302.06354). Raises `ArtifactError` for a file of another backbone or a
    damaged one.
    """

    def __init__(
        self,
        backbone: nn.Module | Backbone,
        deltas: Mapping[str, Path | str | Artifact] | None = None,
    ) -> None:
        self._backbone = backbone
        self._graph: Graph | None = None
        self._shared: dict[int, Tensor] = {}
        self._known: dict[str, Tensor] = {}
        self._joined = _Joined.of({})
        tasks = {name: self._task(delta) for name, delta in (deltas or {}).items()}
        self._joined = _Joined.of(tasks)

    @property
    def tasks(self) -> dict[str, tuple[str, ...]]:
        """Name → classes."""
        return {name: task.classes for name, task in self._joined.tasks.items()}

    def add(self, name: str, delta: Path | str | Artifact) -> None:
        """One more task; `ArtifactError` for a name that is taken."""
        if name in self._joined.tasks:
            raise ArtifactError(
                f"A task needs a name of its own, {name!r} is taken. Remove that one first."
            )
        self._joined = _Joined.of({**self._joined.tasks, name: self._task(delta)})

    def remove(self, name: str) -> None:
        """Forget a task; `ArtifactError` for one that is not there."""
        tasks = dict(self._joined.tasks)
        _require(tasks, [name])
        del tasks[name]
        self._joined = _Joined.of(tasks)

    @torch.inference_mode()
    def __call__(self, inputs: Tensor) -> dict[str, Tensor]:
        """Inputs (n, ...) → logits (n, classes) of every task."""
        joined = self._joined
        found = dict(zip(joined.names, joined.joint.all(inputs), strict=True))
        return {
            name: found[name] if name in found else task.network(inputs)
            for name, task in joined.tasks.items()
        }

    @torch.inference_mode()
    def by_row(self, inputs: Tensor, tasks: Sequence[str]) -> list[Tensor]:
        """Inputs (n, ...) and a task for each → n times logits (classes of its task)."""
        joined = self._joined
        _require(joined.tasks, tasks)
        numbers = {name: at for at, name in enumerate(joined.names)}
        found: list[Tensor | None] = [None] * len(tasks)
        rows = [at for at, name in enumerate(tasks) if name in numbers]
        if rows:
            asked = torch.tensor([numbers[tasks[at]] for at in rows])
            given = inputs if len(rows) == len(tasks) else inputs[rows]
            for number, logits in joined.joint.by_row(given, asked).items():
                mine = [at for at in rows if numbers[tasks[at]] == number]
                for at, row in zip(mine, logits, strict=True):
                    found[at] = row
        for name in {tasks[at] for at in range(len(tasks)) if tasks[at] not in numbers}:
            mine = [at for at, asked_for in enumerate(tasks) if asked_for == name]
            for at, row in zip(mine, joined.tasks[name].network(inputs[mine]), strict=True):
                found[at] = row
        return [row for row in found if row is not None]

    # a task's own network

    def _task(self, delta: Path | str | Artifact) -> _Task:
        artifact = delta if isinstance(delta, Artifact) else read_artifact(delta)
        backbone = self._described(artifact)
        twin = copy.deepcopy(backbone.network, dict(self._shared))
        graph = self._graph.on(twin) if self._graph else None
        load_adapted(replace(backbone, network=twin), delta)
        settle(twin)
        self._share(twin)
        if graph is not None:
            try:
                Attached(graph)
            except Untraceable as error:
                tell("serve", f"A task runs as a whole and shares nothing: {error}.")
                graph = None
        return _Task(artifact, twin, graph)

    def _described(self, artifact: Artifact) -> Backbone:
        """The backbone, looked at once: its frozen tensors, and its graph."""
        if self._shared:
            assert isinstance(self._backbone, Backbone)
            return self._backbone
        backbone = self._backbone = described(self._backbone, artifact)
        network = backbone.network
        for parameter in network.parameters():
            same = nn.Parameter(parameter.detach(), requires_grad=False)
            self._shared[id(parameter)] = same
        for buffer in network.buffers():
            self._shared[id(buffer)] = self._known.setdefault(_digest(buffer), buffer)
        inputs = some_inputs(input_of(artifact)).to(next(network.parameters()).device)
        try:
            self._graph = _graph(network, inputs)
        except Untraceable as error:
            tell("serve", f"Every task runs as a whole and shares nothing: {error}.")
        return backbone

    def _share(self, twin: nn.Module) -> None:
        """Tensors with the same values as those of another task are the same."""
        shared = {id(tensor) for tensor in self._shared.values()}
        for module in twin.modules():
            for tensors in (module._parameters, module._buffers):
                for name, tensor in tensors.items():
                    if tensor is not None and id(tensor) not in shared:
                        tensors[name] = self._known.setdefault(_digest(tensor), tensor)  # type: ignore[assignment]


def _graph(network: nn.Module, inputs: Tensor) -> Graph:
    """By modules; by operators where a module's own code cannot be traced."""
    graph = Graph(network, inputs)
    if graph.untraced:
        try:
            return Graph(network, inputs, is_exported=True)
        except Untraceable:
            return graph
    return graph


def _digest(tensor: Tensor) -> str:
    return fingerprint({"": tensor})


def _require(tasks: Mapping[str, _Task], names: Sequence[str]) -> None:
    for name in names:
        if name not in tasks:
            raise ArtifactError(unknown("task", name, tasks))
