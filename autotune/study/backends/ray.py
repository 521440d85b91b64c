"""Backend `ray`: jobs run in actors of a Ray cluster, which keep the engine.

Ray Tune is not used, since it ties workers to trials. Even with `reuse_actors` it keeps a single
idle worker, and gives a worker that becomes free to a trial whose own worker is still starting,
which it then ends. Short trials ran one after another, and every stage of a search started new
workers (measurements in docs/design.md).
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from autotune.errors import WorkerError, first_line, last_line
from autotune.problem.job import ATTEMPTS, Job, Progress, RunsJob
from autotune.study.backends.base import Backend, Source, pass_on
from autotune.study.backends.pickling import packed
from autotune.study.backends.ray_actor import Arrived, Message, Ready, Resident
from autotune.utils.events import tell, warn
from autotune.utils.timings import spent

PATIENCE = 30.0
"""Seconds without any worker before a warning; workers that import torch start within that time."""


@dataclass(frozen=True)
class Cluster:
    """Ray cluster to run on, and resources of a worker."""

    address: str = "auto"
    """`auto` (the cluster of this machine, or a local one), `local`, `HOST:PORT` or `ray://…`."""

    workers: int | None = None
    """Concurrent trials; None: as many as the cluster has resources for."""

    cpus: float = 1
    """CPUs per worker."""

    gpus: float | None = None
    """GPUs per worker; None: one if the cluster has any, else none."""

    environment: Mapping[str, Any] | None = None
    """`runtime_env` of Ray, which ships the user's `python:` file to the workers."""


@dataclass(eq=False)
class _Seat:
    """Slot of one worker; if its actor dies, a new actor takes the slot."""

    actor: Any
    waited: Any
    """Reference to the pending call of the actor; None while it is idle."""

    job: Job | None = None
    is_ready: bool = False
    """Whether the engine is loaded."""

    deaths: int = 0
    """Number of consecutive actors of this slot that died before they were ready."""


class RayBackend(Backend):
    """Runs jobs in `cluster.workers` actors, each of which loads the engine once.

    `ready` runs in every worker before the engine is loaded, and `arrived` on the loaded engine.
    `visit` runs once on every node before the first job and returns a complaint, or "" if the node
    is fit. The object store of each node holds the data of the engine once for all its workers.
    """

    def __init__(
        self,
        engine: RunsJob,
        cluster: Cluster,
        ready: Ready,
        arrived: Arrived,
        visit: Callable[[], str],
    ) -> None:
        content = packed(engine)
        self.seats: list[_Seat] = []
        self._owns_ray = not ray.is_initialized()
        try:
            if self._owns_ray:
                _connect(cluster)
            share = _share(cluster)
            _visit(visit)
            self._arguments = ray.put(content), ready, arrived
            self._class = ray.remote(num_cpus=share["CPU"], num_gpus=share["GPU"])(Resident)
            self.seats = [self._seated() for _ in range(cluster.workers or _room(share))]
        except BaseException:
            self.close()
            raise

    def run(self, source: Source) -> None:
        self._hand_out(source)
        while any(seat.job for seat in self.seats) or self._is_starting:
            for seat in self._answering():
                self._hear(seat, source)
            self._hand_out(source)

    def close(self) -> None:
        for seat in self.seats:
            ray.kill(seat.actor)
        if self._owns_ray:
            ray.shutdown()

    def _seated(self) -> _Seat:
        actor: Any = self._class.remote(*self._arguments)
        return _Seat(actor, actor.where.remote())

    @property
    def _is_starting(self) -> bool:
        """Whether no worker is ready yet."""
        return not any(seat.is_ready for seat in self.seats)

    def _answering(self) -> list[_Seat]:
        waited = {seat.waited: seat for seat in self.seats if seat.waited is not None}
        while True:
            patience = None if any(seat.is_ready for seat in self.seats) else PATIENCE
            with spent("workers"):
                answered, _ = ray.wait(list(waited), timeout=patience)
            if answered:
                return [waited[reference] for reference in answered]
            warn("No worker has started yet; waiting for resources of the cluster.")

    def _hand_out(self, source: Source) -> None:
        for seat in self.seats:
            idle = seat.is_ready and seat.job is None
            if idle and (job := source.next_job()) is not None:
                seat.job, seat.waited = job, seat.actor.begin.remote(job)

    def _hear(self, seat: _Seat, source: Source) -> None:
        reference, seat.waited = seat.waited, None
        try:
            message = ray.get(reference)
        except RayTaskError as error:  # raised by the actor itself, not by a job
            raise WorkerError(f"A worker failed: {last_line(error)}") from error
        except RayError as error:
            self._replace(seat, source, error)
            return
        if seat.job is None:
            self._welcome(seat, message)
        else:
            self._pass_on(seat, seat.job, message, source)

    def _welcome(self, seat: _Seat, place: str | WorkerError) -> None:
        if isinstance(place, WorkerError):
            raise place
        seat.is_ready, seat.deaths = True, 0
        tell("worker", f"A worker is {place}.")

    def _pass_on(self, seat: _Seat, job: Job, message: Message, source: Source) -> None:
        if not isinstance(message, Progress):
            seat.job = None
        if (decision := pass_on(source, job, message)) is not None:
            seat.waited = seat.actor.go_on.remote(decision)

    def _replace(self, seat: _Seat, source: Source, error: RayError) -> None:
        """Start another actor, on any node with room, and report the job as lost."""
        job, deaths = seat.job, seat.deaths + (not seat.is_ready)
        if deaths >= ATTEMPTS:
            first = first_line(error)
            raise WorkerError(f"A worker must start, {deaths} died before they had ({first}).")
        other = self._seated()
        seat.actor, seat.waited, seat.deaths = other.actor, other.waited, deaths
        seat.job, seat.is_ready = None, False
        if job is not None:
            source.lost(job)


def _connect(cluster: Cluster) -> None:
    """Connect to a running cluster or start a local one without a dashboard, and report which."""
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if cluster.environment:
        options["runtime_env"] = dict(cluster.environment)
    with _devices_left_alone():
        address = cluster.address
        if address == "auto":
            address = os.environ.get("RAY_ADDRESS") or "auto"
        if address == "auto":
            _connect_or_start(options)
        elif address == "local":
            ray.init(address="local", include_dashboard=False, **options)
        else:
            _connect_to(address, options)
    resources, nodes = ray.cluster_resources(), len(_nodes())
    tell(
        "cluster",
        f"Ray: {nodes} node{'s' * (nodes != 1)}, {resources.get('CPU', 0):g} CPUs, "
        f"{resources.get('GPU', 0):g} GPUs.",
    )


def _connect_or_start(options: dict[str, Any]) -> None:
    """Connect to the cluster of `ray start`, or start a local one.

    `address="auto"` would also join the private cluster of another search on this machine, which
    ends with that search.
    """
    try:
        ray.init(include_dashboard=False, **options)
    except ConnectionError:  # the cluster of `ray start` has ended
        ray.init(address="local", include_dashboard=False, **options)


def _connect_to(address: str, options: dict[str, Any]) -> None:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        # Ray would try for minutes to reach a host that does not answer.
        socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address=address, **options)
    except Exception as error:
        first = first_line(error)
        raise WorkerError(
            f"A Ray cluster must answer at --address, {address!r} does not ({first}). "
            "Use auto, local, HOST:PORT or ray://HOST:10001; a cluster with a token needs "
            "RAY_AUTH_MODE=token."
        ) from error


@contextmanager
def _devices_left_alone() -> Iterator[None]:
    """Keep Ray from hiding a machine's GPUs from workers that request none.

    This also silences Ray's warning that the default will change.
    """
    name = "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"
    before = os.environ.get(name)
    os.environ.setdefault(name, "0")
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]


def _nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _share(cluster: Cluster) -> dict[str, float]:
    """Resources of one worker; raises `WorkerError` if no single node has them."""
    gpus = cluster.gpus
    if gpus is None:
        gpus = 1 if ray.cluster_resources().get("GPU") else 0
    share = {"CPU": cluster.cpus, "GPU": gpus}
    nodes = [node["Resources"] for node in _nodes()]
    if not any(all(node.get(k, 0) >= amount for k, amount in share.items()) for node in nodes):
        most = ", ".join(f"{n.get('CPU', 0):g} CPUs and {n.get('GPU', 0):g} GPUs" for n in nodes)
        raise WorkerError(
            f"A trial must fit on one node and needs {cluster.cpus:g} CPUs and {gpus:g} GPUs; "
            f"the nodes have {most}. Use a smaller --cpus-per-trial or --gpus-per-trial."
        )
    return share


def _room(share: Mapping[str, float]) -> int:
    """Number of workers for which the nodes of the cluster have resources."""
    needed = [(name, amount) for name, amount in share.items() if amount]
    nodes = [node["Resources"] for node in _nodes()]
    return sum(min(int(node.get(name, 0) / amount) for name, amount in needed) for node in nodes)


def _visit(visit: Callable[[], str]) -> None:
    """Run `visit` on every node; raise `WorkerError` with all complaints."""
    nodes, task = _nodes(), ray.remote(num_cpus=0)(_visited)
    references = [
        task.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(visit)
        for node in nodes
    ]
    answers = zip(nodes, map(_answer, references), strict=True)
    complaints = [f"{node['NodeManagerHostname']} {answer}" for node, answer in answers if answer]
    if complaints:
        raise WorkerError(
            f"All nodes must be able to run the trials: {'; '.join(complaints)}. Set them up alike."
        )


def _visited(visit: Callable[[], str]) -> str:
    return visit()


def _answer(reference: Any) -> str:
    try:
        return str(ray.get(reference))
    except RayError as error:
        last = last_line(error)
        return f"cannot answer ({last})"
