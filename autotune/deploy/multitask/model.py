"""Several deltas on one backbone at once."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from autotune.backbones.base import Backbone, fingerprint
from autotune.backbones.inputs import some_inputs
from autotune.deltas.apply import described, device_of, input_of, put_on, require_fits
from autotune.deltas.artifact import Artifact, read_artifact
from autotune.deltas.surgery import settle
from autotune.deploy.multitask.sharing import Joint
from autotune.errors import ArtifactError, unknown
from autotune.training.prefix.attached import Attached
from autotune.training.prefix.graph import Graph, graphs_of
from autotune.training.prefix.nodes import Untraceable
from autotune.utils.events import warn


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
        self._looked_at: Backbone | None = None
        self._graph: Graph | None = None
        self._shared: dict[int, Tensor] = {}
        self._known: WeakValueDictionary[str, Tensor] = WeakValueDictionary()
        self._joined = _Joined.of({})
        tasks = {name: self._task(delta) for name, delta in (deltas or {}).items()}
        self._joined = _Joined.of(tasks)

    @property
    def tasks(self) -> dict[str, tuple[str, ...]]:
        """Name → classes."""
        return {name: task.classes for name, task in self._joined.tasks.items()}

    def add(self, name: str, delta: Path | str | Artifact) -> None:
        """One more task by its delta file; `ArtifactError` for a name that is taken."""
        if name in self._joined.tasks:
            raise ArtifactError(
                f"A task needs a name of its own, {name!r} is taken. Remove that one first."
            )
        self._joined = _Joined.of({**self._joined.tasks, name: self._task(delta)})

    def remove(self, name: str) -> None:
        """Forget the task of a name; `ArtifactError` for one that is not there."""
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
        """Inputs (n, ...) and a task for each → n times logits (classes of its task).

        `ArtifactError` for an unknown task, and for fewer or more tasks than inputs.
        """
        if len(tasks) != len(inputs):
            raise ArtifactError(
                f"Each input has a task, got {len(inputs)} inputs and {len(tasks)} tasks."
            )
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
        source = "the artifact" if isinstance(delta, Artifact) else str(delta)
        backbone = self._looked_at or described(self._backbone, artifact)
        require_fits(backbone, artifact, source)
        shared, graph = self._shared or self._frozen(backbone), self._graph
        twin = copy.deepcopy(backbone.network, dict(shared))
        graph = graph or self._traced(backbone, artifact)
        own = graph.on(twin) if graph else None
        put_on(replace(backbone, network=twin), artifact, source)
        settle(twin)
        self._looked_at, self._shared, self._graph = backbone, shared, graph
        self._share(twin)
        return _Task(artifact, twin, _cuttable(own))

    def _frozen(self, backbone: Backbone) -> dict[int, Tensor]:
        """The tensors that all tasks have, by the identity of the backbone's own."""
        found: dict[int, Tensor] = {}
        for parameter in backbone.network.parameters():
            found[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
        for buffer in backbone.network.buffers():
            found[id(buffer)] = self._known.setdefault(_digest(buffer), buffer)
        return found

    def _traced(self, backbone: Backbone, artifact: Artifact) -> Graph | None:
        """The backbone's graph, on inputs that it is known to take."""
        try:
            input = backbone.input or input_of(artifact)
        except ArtifactError as error:
            found, why = list[Graph](), str(error)
        else:
            inputs = some_inputs(input).to(device_of(backbone.network))
            found, why = graphs_of(backbone.network, inputs)
        if not found:
            warn(f"A task runs as a whole and shares nothing with others: {why}.")
        return found[0] if found else None

    def _share(self, twin: nn.Module) -> None:
        """Tensors with the same values as those of another task are the same."""
        shared = {id(tensor) for tensor in self._shared.values()}
        for module in twin.modules():
            for tensors in (module._parameters, module._buffers):
                for name, tensor in tensors.items():
                    if tensor is not None and id(tensor) not in shared:
                        tensors[name] = self._known.setdefault(_digest(tensor), tensor)  # type: ignore[assignment]


def _cuttable(graph: Graph | None) -> Graph | None:
    """A graph that has a place for all that is on its network."""
    if graph is None:
        return None
    try:
        Attached(graph)
    except Untraceable as error:
        warn(f"A task runs as a whole and shares nothing with others: {error}.")
        return None
    return graph


def _digest(tensor: Tensor) -> str:
    return fingerprint({"": tensor})


def _require(tasks: Mapping[str, _Task], names: Sequence[str]) -> None:
    for name in names:
        if name not in tasks:
            raise ArtifactError(unknown("task", name, tasks))
