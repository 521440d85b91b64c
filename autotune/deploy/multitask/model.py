"""Network with several deltas on one backbone at the same time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from autotune.backbones.base import Backbone, fingerprint
from autotune.backbones.copying import copied
from autotune.backbones.forward import logits_of
from autotune.backbones.heads.factory import HeadFactory
from autotune.backbones.inputs import some_inputs
from autotune.deltas.apply import described, device_of, input_of, put_on, require_fits
from autotune.deltas.artifact import Artifact, read_artifact
from autotune.deltas.computed import settle
from autotune.deploy.multitask.program import Program
from autotune.deploy.multitask.sharing import Joint, TaskRemoved
from autotune.errors import ArtifactError, unknown
from autotune.training.prefix.attached import Attached
from autotune.training.prefix.graph import Graph, graphs_of
from autotune.training.prefix.nodes import Untraceable
from autotune.utils.events import warn


@dataclass(frozen=True, eq=False)
class _Task:
    """One task: a copy of the network that shares its frozen tensors with the backbone."""

    artifact: Artifact
    network: nn.Module
    graph: Graph | None
    """None if the network could not be traced; it then runs as a whole."""

    number: int | None = None
    """Number in the joint computation; None without a graph."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the logits."""
        names = self.artifact.header.get("task", {}).get("classes", [])
        return tuple(map(str, names))


class MultiTask:
    """Inference for several tasks on one backbone, in which common computation runs once.

    `deltas` maps the name of each task to its delta file. Equal operations on equal values run only
    once: everything up to the first layer that differs between tasks, including prepared
    normalisation statistics (tasks tuned with `--bnstats off` all share the original ones). The
    remaining layers run per task. `multi(x)` evaluates all tasks on one batch; the outputs are
    bit-identical to those of each tuned network alone. `by_row` takes one task per example; beyond
    the shared part, the examples of each task form a batch, so the last bits may differ, as they do
    between batch sizes.

    The backbone is never modified, and adding or removing a task does not affect others.
    `head_factory` makes the heads of the tasks that were searched with one. The idea comes from
    SubTuning (arXiv 2302.06354). Raises `ArtifactError` for files that are damaged or belong to
    another backbone.
    """

    def __init__(
        self,
        backbone: nn.Module | Backbone,
        deltas: Mapping[str, Path | str | Artifact] | None = None,
        *,
        head_factory: HeadFactory | None = None,
    ) -> None:
        self._backbone, self._head_factory = backbone, head_factory
        self._described: Backbone | None = None
        self._graph: Graph | None = None
        self._shared: dict[int, Tensor] = {}
        self._known: WeakValueDictionary[str, Tensor] = WeakValueDictionary()
        self._joint = Joint()
        self._tasks: Mapping[str, _Task] = {}
        """Replaced, not changed, so that calls in other threads finish on those they began with."""

        for name, delta in (deltas or {}).items():
            self.add(name, delta)

    @property
    def tasks(self) -> dict[str, tuple[str, ...]]:
        """Task name → class names, in the order of the logits."""
        return {name: task.classes for name, task in self._tasks.items()}

    def add(self, name: str, delta: Path | str | Artifact) -> None:
        """Add a task from its delta file; raise `ArtifactError` if the name is taken."""
        if name in self._tasks:
            raise ArtifactError(
                f"A task needs a unique name, {name!r} is taken. Remove that task first."
            )
        task = self._task(delta)
        number = self._joint.add(task.graph) if task.graph else None
        self._tasks = {**self._tasks, name: replace(task, number=number)}

    def remove(self, name: str) -> None:
        """Remove a task; raise `ArtifactError` if there is none of that name."""
        _require(self._tasks, [name])
        number = self._tasks[name].number
        self._tasks = {other: task for other, task in self._tasks.items() if other != name}
        if number is not None:
            self._joint.remove(number)

    @torch.no_grad()
    def __call__(self, inputs: Tensor) -> dict[str, Tensor]:
        """Task name → logits (n, classes) for inputs (n, ...)."""
        tasks, numbers, program = self._begun()
        outputs = program.all(inputs, list(numbers.values()))
        shared = dict(zip(numbers, outputs, strict=True))
        return {
            name: shared[name] if name in shared else logits_of(task.network(inputs))
            for name, task in tasks.items()
        }

    @torch.no_grad()
    def by_row(self, inputs: Tensor, tasks: Sequence[str]) -> list[Tensor]:
        """Logits (classes,) of each example for its task, for inputs (n, ...) and n task names.

        Raises `ArtifactError` for an unknown task and if there are not as many tasks as inputs.
        """
        if len(tasks) != len(inputs):
            raise ArtifactError(
                f"Every input needs one task, got {len(inputs)} inputs and {len(tasks)} tasks."
            )
        known, numbers, program = self._begun(tasks)
        answers: list[Tensor | None] = [None] * len(tasks)
        traced = [at for at, name in enumerate(tasks) if name in numbers]
        if traced:
            number_by_row = torch.tensor([numbers[tasks[at]] for at in traced])
            batch = inputs if len(traced) == len(tasks) else inputs[traced]
            for number, logits in program.by_row(batch, number_by_row).items():
                rows = [at for at in traced if numbers[tasks[at]] == number]
                for at, row in zip(rows, logits, strict=True):
                    answers[at] = row
        for name in {task for task in tasks if task not in numbers}:
            rows = [at for at, task in enumerate(tasks) if task == name]
            logits = logits_of(known[name].network(inputs[rows]))
            for at, row in zip(rows, logits, strict=True):
                answers[at] = row
        return [row for row in answers if row is not None]

    def _begun(
        self, names: Sequence[str] | None = None
    ) -> tuple[Mapping[str, _Task], dict[str, int], Program]:
        """The tasks at this moment, numbers of those with a graph among `names`, their program."""
        while True:
            tasks = self._tasks
            _require(tasks, names or ())
            chosen = tasks if names is None else dict.fromkeys(names)
            numbers = {name: n for name in chosen if (n := tasks[name].number) is not None}
            try:
                return tasks, numbers, self._joint.program(frozenset(numbers.values()))
            except TaskRemoved:  # since `tasks` was read, which lacks it now
                continue

    # networks of the tasks

    def _task(self, delta: Path | str | Artifact) -> _Task:
        artifact = delta if isinstance(delta, Artifact) else read_artifact(delta)
        source = "the artifact" if isinstance(delta, Artifact) else str(delta)
        backbone = self._described or described(self._backbone, artifact, self._head_factory)
        require_fits(backbone, artifact, source)
        shared, graph = self._shared or self._frozen(backbone), self._graph
        network = copied(backbone.network, dict(shared))
        graph = graph or self._traced(backbone, artifact)
        task_graph = graph.on(network) if graph else None
        put_on(replace(backbone, network=network), artifact, source)
        settle(network)
        self._described, self._shared, self._graph = backbone, shared, graph
        self._share(network)
        return _Task(artifact, network, _cuttable(task_graph))

    def _frozen(self, backbone: Backbone) -> dict[int, Tensor]:
        """Memo with which `copy.deepcopy` shares tensors: id of a tensor → its frozen version."""
        memo: dict[int, Tensor] = {}
        for parameter in backbone.network.parameters():
            memo[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
        for buffer in backbone.network.buffers():
            memo[id(buffer)] = self._known.setdefault(_digest(buffer), buffer)
        return memo

    def _traced(self, backbone: Backbone, artifact: Artifact) -> Graph | None:
        """Graph of the backbone, traced on noise; None, with a warning, if it has none."""
        try:
            input = backbone.input or input_of(artifact)
        except ArtifactError as error:
            graphs, reason = list[Graph](), str(error)
        else:
            inputs = some_inputs(input).to(device_of(backbone.network))
            graphs, reason = graphs_of(backbone.network, inputs, opaque_head=backbone.opaque_head)
        if any(graph.changes_parts for graph in graphs):
            graphs, reason = [], "the network changes parts of its values in place"
        if not graphs:
            warn(f"A task runs as a whole and shares nothing with others: {reason}.")
        return graphs[0] if graphs else None

    def _share(self, network: nn.Module) -> None:
        """Replace tensors by those of other tasks with equal values, which makes calls shared."""
        shared = {id(tensor) for tensor in self._shared.values()}
        for module in network.modules():
            for tensors in (module._parameters, module._buffers):
                for name, tensor in tensors.items():
                    if tensor is not None and id(tensor) not in shared:
                        tensors[name] = self._known.setdefault(_digest(tensor), tensor)  # type: ignore[assignment]


def _cuttable(graph: Graph | None) -> Graph | None:
    """The graph, or None, with a warning, if a delta cannot be located in it."""
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
