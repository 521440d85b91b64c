"""Tasks of a server: their deltas, inputs and metrics."""

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
from autotune.backbones.inputs import InputDescription, some_inputs
from autotune.deltas.apply import input_of
from autotune.deltas.artifact import Artifact, from_bytes
from autotune.deploy.multitask.model import MultiTask
from autotune.deploy.serve.additions import brief_of, check_outputs, check_values
from autotune.deploy.serve.batching import ALL, Answer, Ask, Batches, together
from autotune.deploy.serve.limits import Limits
from autotune.deploy.serve.requests import read_inputs
from autotune.errors import (
    ArtifactError,
    AutotuneError,
    Busy,
    NoTask,
    ServeError,
    TaskError,
    brief,
    unknown,
)

READERS = 2
"""Threads that decode request bodies.

Not critical for speed; every further thread can hold one more decoded image in memory.
"""


@dataclass(frozen=True)
class Served:
    """Task that is served."""

    path: str
    artifact: Artifact
    input: InputDescription

    key: str
    """Unique name in `MultiTask`, never reused, even if a task of the same name is added again."""

    @property
    def classes(self) -> Any:
        """Class names in the order of the logits; empty if the delta names none."""
        task = self.artifact.header.get("task", {})
        classes: Any = task.get("classes", []) if isinstance(task, dict) else None
        return classes

    @property
    def shown_path(self) -> str:
        """Path as clients see it: not where this machine keeps it."""
        return Path(self.path).name if Path(self.path).is_absolute() else self.path

    def to_json(self, name: str) -> dict[str, Any]:
        header = self.artifact.header
        return {
            "name": name,
            "path": self.shown_path,
            "classes": self.classes,
            "plan": str(self.artifact.plan),
            "cost": header.get("cost"),
            "metrics": header.get("metrics"),
            "input": self.input.to_json(),
        }


@dataclass(eq=False)
class Service:
    """Service that answers requests for tasks on one backbone.

    Tasks can be added and removed while it runs.
    """

    backbone: Backbone
    limits: Limits = field(default_factory=Limits)
    folder: Path | None = None
    """Folder from which deltas may be added while the server runs; None: adding is disabled."""

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
            "autotune_request_seconds",
            "Duration of a request in seconds",
            ["task"],
            registry=self.registry,
        )
        self.sizes = Histogram(
            "autotune_batch_examples",
            "Examples per batch",
            registry=self.registry,
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
        )
        Gauge("autotune_tasks", "Tasks that are served", registry=self.registry).set_function(
            lambda: len(self.tasks)
        )
        Gauge("autotune_waiting", "Requests in progress", registry=self.registry).set_function(
            lambda: self._taken
        )

    def put(self, name: str, path: str, artifact: Artifact) -> None:
        """Add a task. Blocks; call it before the server runs, or in a thread."""
        _check_name(name)
        if name in self.tasks:
            raise ServeError(f"A task needs a unique name, {name!r} is taken. Remove it first.")
        served = Served(path, artifact, input_of(artifact), f"{name} {next(self._keys)}")
        check_values(artifact, served.to_json(name))
        self.multi.add(served.key, artifact)
        try:
            check_outputs(served.classes, self._tried(served))
        except BaseException:
            self.multi.remove(served.key)
            raise
        self.tasks = {**self.tasks, name: served}

    def _tried(self, served: Served) -> Tensor:
        """Logits (classes,) of noise; raises `ArtifactError` if there are none."""
        inputs = some_inputs(served.input, 1).to(self.device)
        try:
            return self.multi.by_row(inputs, [served.key])[0]
        except Exception as error:  # a network may raise anything for inputs it cannot process
            raise ArtifactError(
                "A delta must fit its own input, the network cannot process it "
                f"({brief_of(error)})."
            ) from error

    async def add(self, name: str, path: str) -> None:
        """Add a delta file from the allowed folder as a task, without blocking other requests."""
        file = self._allowed(path)
        async with self._changing:
            content = await asyncio.to_thread(file.read_bytes)
            artifact = await asyncio.to_thread(from_bytes, content, brief(repr(path)))
            try:
                await asyncio.to_thread(self.put, name, path, artifact)
            except AutotuneError:
                raise
            except Exception as error:  # the file may come from others
                raise ArtifactError(
                    f"A delta must be what autotune wrote, {brief(repr(path))} is not "
                    f"({brief_of(error)})."
                ) from error

    async def remove(self, name: str) -> None:
        """Remove a task; requests that wait for it are answered with an error."""
        async with self._changing:
            key = self.require(name).key
            self.tasks = {n: task for n, task in self.tasks.items() if n != name}
            await asyncio.to_thread(self.multi.remove, key)

    def require(self, name: str) -> Served:
        """Return the task of that name; raise `NoTask` if it is not served."""
        if name not in self.tasks:
            raise NoTask(unknown("task", name, self.tasks))
        return self.tasks[name]

    def asked(self, name: str) -> dict[str, Served]:
        """Task of that name, or all tasks for `ALL`.

        Raises `ServeError` if all are requested and their inputs differ.
        """
        if name != ALL:
            return {name: self.require(name)}
        tasks = self.tasks
        if (kinds := len({str(task.input) for task in tasks.values()})) != 1:
            raise ServeError(
                f"Predicting all tasks at once needs one kind of input, the tasks have {kinds}. "
                "Request a single task."
            )
        return tasks

    def require_place(self) -> None:
        """Raise `Busy` if the limit of requests in progress is reached."""
        if self._taken >= self.limits.waiting:
            raise Busy(f"All {self.limits.waiting} places for requests are taken. Try again later.")

    @contextmanager
    def place(self) -> Iterator[None]:
        """Count a request until it has been answered; raise `Busy` if the limit is reached."""
        self.require_place()
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1

    async def read(self, body: bytes, kind: str, input: InputDescription) -> Tensor:
        """Decode the examples of a request in a reader thread."""
        loop, most = asyncio.get_running_loop(), self.limits.examples
        return await loop.run_in_executor(self.reading, read_inputs, body, kind, input, most)

    async def answer(self, inputs: Tensor, tasks: dict[str, Served]) -> dict[str, Tensor]:
        """Task name → logits (n, classes)."""
        inputs, (first, *others) = inputs.to(self.device), tasks.values()
        if others:
            answer = await self.batches.answer(inputs, ALL)
            assert isinstance(answer, dict)
            by_name = {name: answer.get(task.key) for name, task in tasks.items()}
            return {name: logits for name, logits in by_name.items() if logits is not None}
        logits = await self.batches.answer(inputs, first.key)
        assert isinstance(logits, Tensor)
        return dict.fromkeys(tasks, logits)

    def _compute(self, asks: list[Ask]) -> list[Answer]:
        """Compute a batch, in the thread of the network.

        If it fails, each request is computed alone, so that one bad request or a task that was
        removed meanwhile affects no other.
        """
        self.sizes.observe(sum(len(ask.inputs) for ask in asks))
        try:
            return together(asks, self.multi.by_row, self.multi)
        except Exception:
            return [self._alone(ask) for ask in asks]

    def _alone(self, ask: Ask) -> Any:
        try:
            return together([ask], self.multi.by_row, self.multi)[0]
        except ArtifactError:
            return NoTask("The task was removed while the request waited.")
        except Exception as error:  # a network may raise anything for inputs it cannot process
            return TaskError(f"The network cannot process these inputs ({brief_of(error)}).")

    def _allowed(self, path: str) -> Path:
        if self.folder is None:
            raise ServeError(
                "Adding tasks needs an allowed folder. Start the server with --folder."
            )
        root = self.folder.resolve()
        try:
            file = (root / path).resolve()
            is_allowed = file.is_relative_to(root) and file.is_file()
        except (OSError, ValueError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ServeError(
                f"A delta file needs a valid path, {brief(repr(path))} is not one ({reason})."
            ) from error
        if not is_allowed:
            raise ServeError(
                f"A delta file must be inside the allowed folder, {brief(repr(path))} is not."
            )
        return file


def _check_name(name: str) -> None:
    if not name or name == ALL or len(name) > 100 or not name.replace("-", "_").isidentifier():
        raise ServeError(
            "A task name has up to 100 letters, digits, - or _ and begins with a letter, "
            f"got {brief(repr(name))}."
        )


def probabilities(logits: Tensor, classes: list[Any], top: int) -> list[list[dict[str, Any]]]:
    """The `top` most probable classes of each example, the most probable first.

    Logits have the shape (n, classes); without `classes`, a class is its index.
    """
    if not logits.isfinite().all():
        raise TaskError("The network's outputs for these inputs are not finite. Send smaller ones.")
    best = logits.float().softmax(1).topk(min(top, logits.shape[1]))
    names = classes or list(range(logits.shape[1]))
    pairs = zip(best.values.tolist(), best.indices.tolist(), strict=True)
    return [
        [{"class": names[at], "probability": p} for p, at in zip(ps, places, strict=True)]
        for ps, places in pairs
    ]
