"""Tasks that are served: their deltas, what they take, and what was counted of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from torch import Tensor

from autotune.backbones.base import Backbone
from autotune.backbones.inputs import InputDescription
from autotune.deltas.apply import input_of
from autotune.deltas.artifact import Artifact, read_artifact
from autotune.deploy.multitask.model import MultiTask
from autotune.deploy.serve.batching import ALL, Answer, Ask, Batches, together
from autotune.deploy.serve.limits import Limits
from autotune.deploy.serve.requests import read_inputs
from autotune.errors import ArtifactError, Busy, NoTask, ServeError, TaskError, unknown

READERS = 2
"""Threads that decode pictures: more of them at once would only fill memory."""


@dataclass(frozen=True)
class Served:
    """One task."""

    path: str
    artifact: Artifact
    input: InputDescription

    key: str
    """Its own among all that were ever served, also under the same name."""

    @property
    def classes(self) -> list[Any]:
        found: list[Any] = self.artifact.header.get("task", {}).get("classes", [])
        return found

    def to_json(self, name: str) -> dict[str, Any]:
        header = self.artifact.header
        return {
            "name": name,
            "path": self.path,
            "classes": self.classes,
            "plan": str(self.artifact.plan),
            "cost": header.get("cost"),
            "metrics": header.get("metrics"),
            "input": self.input.to_json(),
        }


@dataclass(eq=False)
class Service:
    """Answers requests for the tasks of one backbone; tasks come and go meanwhile."""

    backbone: Backbone
    limits: Limits = field(default_factory=Limits)
    folder: Path | None = None
    """Where deltas may be added from while it runs; none from nowhere."""

    device: str = "cpu"
    tasks: dict[str, Served] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.backbone.network.to(self.device)
        self.multi = MultiTask(self.backbone)
        self.batches = Batches(self._compute, size=self.limits.examples)
        self.reading = ThreadPoolExecutor(READERS, "reading")
        self._keys = count()
        self._taken = 0
        self._changing = asyncio.Lock()
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "autotune_requests",
            "Requests by task and status",
            ["task", "status"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "autotune_request_seconds", "Seconds of a request", ["task"], registry=self.registry
        )
        self.sizes = Histogram(
            "autotune_batch_examples",
            "Examples of a batch",
            registry=self.registry,
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
        )
        Gauge("autotune_tasks", "Tasks", registry=self.registry).set_function(
            lambda: len(self.tasks)
        )
        Gauge("autotune_waiting", "Requests at hand", registry=self.registry).set_function(
            lambda: self._taken
        )

    def put(self, name: str, path: str, artifact: Artifact) -> None:
        """One more task, before the server runs or in a thread of its own."""
        _check_name(name)
        if name in self.tasks:
            raise ServeError(f"A task needs a name of its own, {name!r} is taken. Remove it first.")
        served = Served(path, artifact, input_of(artifact), f"{name} {next(self._keys)}")
        _check_classes(served)
        self.multi.add(served.key, artifact)
        self.tasks = {**self.tasks, name: served}

    async def add(self, name: str, path: str) -> None:
        """A delta file of the allowed folder as a task; others are answered meanwhile."""
        file = self._allowed(path)
        async with self._changing:
            artifact = await asyncio.to_thread(read_artifact, file)
            await asyncio.to_thread(self.put, name, path, artifact)

    async def remove(self, name: str) -> None:
        """Forget a task; what waits for it is answered with an error."""
        async with self._changing:
            key = self.require(name).key
            self.tasks = {n: task for n, task in self.tasks.items() if n != name}
            await asyncio.to_thread(self.multi.remove, key)

    def require(self, name: str) -> Served:
        if name not in self.tasks:
            raise NoTask(unknown("task", name, self.tasks))
        return self.tasks[name]

    def asked(self, name: str) -> dict[str, Served]:
        """The task of that name, or all; `ServeError` where they do not take the same inputs."""
        if name != ALL:
            return {name: self.require(name)}
        found = self.tasks
        if (kinds := len({str(task.input) for task in found.values()})) != 1:
            raise ServeError(
                f"All tasks at once must take the same inputs, these take {kinds} kinds. "
                "Ask for one."
            )
        return found

    @contextmanager
    def place(self) -> Iterator[None]:
        """For one request, from before it is read until it is answered; `Busy` where none is."""
        if self._taken >= self.limits.waiting:
            raise Busy(f"At most {self.limits.waiting} requests may wait, so many do. Try later.")
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1

    async def read(self, body: bytes, kind: str, input: InputDescription) -> Tensor:
        """The examples of a request, decoded by few threads."""
        loop, most = asyncio.get_running_loop(), self.limits.examples
        return await loop.run_in_executor(self.reading, read_inputs, body, kind, input, most)

    async def answer(self, inputs: Tensor, tasks: dict[str, Served]) -> dict[str, Tensor]:
        """Logits (n, classes) of each of these tasks."""
        inputs, (first, *others) = inputs.to(self.device), tasks.values()
        if others:
            answer = await self.batches.answer(inputs, ALL)
            assert isinstance(answer, dict)
            found = {name: answer.get(task.key) for name, task in tasks.items()}
            return {name: logits for name, logits in found.items() if logits is not None}
        logits = await self.batches.answer(inputs, first.key)
        assert isinstance(logits, Tensor)
        return dict.fromkeys(tasks, logits)

    def _compute(self, asks: list[Ask]) -> list[Answer]:
        """In the network's own thread. A task that was removed meanwhile fails alone."""
        self.sizes.observe(sum(len(ask.inputs) for ask in asks))
        try:
            return together(asks, self.multi.by_row, self.multi)
        except Exception:  # of one of them: the others are answered
            return [self._alone(ask) for ask in asks]

    def _alone(self, ask: Ask) -> Any:
        try:
            return together([ask], self.multi.by_row, self.multi)[0]
        except ArtifactError:
            return NoTask("The task was removed meanwhile.")
        except Exception as error:  # whatever a network raises for inputs that it cannot take
            said = " ".join(str(error).split())[:200]
            return TaskError(f"The network cannot take these inputs ({said}).")

    def _allowed(self, path: str) -> Path:
        if self.folder is None:
            raise ServeError("Tasks are added from a folder, none is allowed. Start with --folder.")
        root = self.folder.resolve()
        try:
            file = (root / path).resolve()
        except (OSError, ValueError) as error:
            raise ServeError(f"A delta file needs a path, {path!r} is none ({error}).") from error
        if not file.is_relative_to(root) or not file.is_file():
            raise ServeError(f"A delta file must be inside of the allowed folder, {path!r} is not.")
        return file


def _check_name(name: str) -> None:
    if not name or name == ALL or len(name) > 100 or not name.replace("-", "_").isidentifier():
        raise ServeError(
            f"A task's name is letters, digits, - and _, beginning with a letter, got {name!r}."
        )


def _check_classes(served: Served) -> None:
    n, classes = len(served.artifact.tensors["head/weight"]), served.classes
    if not isinstance(classes, list) or len(classes) not in (0, n):
        raise ArtifactError(f"A delta names the classes of its {n} outputs, or none: {classes!r}.")


def probabilities(logits: Tensor, classes: list[Any], top: int) -> list[list[dict[str, Any]]]:
    """For each example the most probable classes, the first the most."""
    found = logits.float().softmax(1).topk(min(top, logits.shape[1]))
    named = classes or list(range(logits.shape[1]))
    pairs = zip(found.values.tolist(), found.indices.tolist(), strict=True)
    return [
        [{"class": named[at], "probability": p} for p, at in zip(ps, places, strict=True)]
        for ps, places in pairs
    ]
