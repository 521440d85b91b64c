"""`ray`: jobs run in actors of a Ray cluster, which keep the engine.

Not in Ray Tune's trials: with `reuse_actors` Ray Tune keeps one idle worker and gives a worker that
has become free to a trial whose own is still starting, which it then ends; so short trials ran one
after the other, and every stage of a search started its workers anew.
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
"""Seconds without any worker until it is said what is waited for."""


@dataclass(frozen=True)
class Cluster:
    """Where a Ray backend runs and what a worker gets there."""

    address: str = "auto"
    """`auto`: the cluster that runs here, else a local one; `local`; `HOST:PORT`; `ray://…`."""

    workers: int | None = None
    """Trials at once; None: as many as the cluster has resources for."""

    cpus: float = 1
    gpus: float | None = None
    """Of one worker; None: one GPU where the cluster has any."""

    environment: Mapping[str, Any] | None = None
    """Ray's `runtime_env`, with which a user's `python:` file travels."""


@dataclass(eq=False)
class _Seat:
    """Place of one worker: when its actor dies, another takes it."""

    actor: Any
    waited: Any
    """What the actor was asked last; None while it is idle."""

    job: Job | None = None
    is_there: bool = False
    deaths: int = 0
    """How often an actor died here before it was there."""


class RayBackend(Backend):
    """`cluster.workers` actors, each with the engine made once in its process.

    `ready` runs in a worker before the engine is loaded, `arrived` on it, `visit` once on every
    node before the first job: what it gives is a complaint, or empty. The engine's data lies once
    in the object store of every node.
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
        self._is_mine = not ray.is_initialized()
        try:
            if self._is_mine:
                _connect(cluster)
            share = _share(cluster)
            _visit(visit)
            self._given = ray.put(content), ready, arrived
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
        if self._is_mine:
            ray.shutdown()

    def _seated(self) -> _Seat:
        actor: Any = self._class.remote(*self._given)
        return _Seat(actor, actor.where.remote())

    @property
    def _is_starting(self) -> bool:
        """Whether nobody is there yet who could be asked."""
        return not any(seat.is_there for seat in self.seats)

    def _answering(self) -> list[_Seat]:
        waited = {seat.waited: seat for seat in self.seats if seat.waited is not None}
        while True:
            patience = None if any(seat.is_there for seat in self.seats) else PATIENCE
            with spent("workers"):
                answered, _ = ray.wait(list(waited), timeout=patience)
            if answered:
                return [waited[reference] for reference in answered]
            warn("No worker could start so far: waiting for resources of the cluster.")

    def _hand_out(self, source: Source) -> None:
        for seat in self.seats:
            idle = seat.is_there and seat.job is None
            if idle and (job := source.next_job()) is not None:
                seat.job, seat.waited = job, seat.actor.begin.remote(job)

    def _hear(self, seat: _Seat, source: Source) -> None:
        reference, seat.waited = seat.waited, None
        try:
            message = ray.get(reference)
        except RayTaskError as error:  # the actor's own code raised: nothing that a job did
            raise WorkerError(f"A worker failed: {last_line(error)}") from error
        except RayError as error:
            self._replace(seat, source, error)
            return
        if seat.job is None:
            self._welcome(seat, message)
        else:
            self._pass_on(seat, seat.job, message, source)

    def _welcome(self, seat: _Seat, found: str | WorkerError) -> None:
        if isinstance(found, WorkerError):
            raise found
        seat.is_there, seat.deaths = True, 0
        tell("worker", f"A worker is {found}.")

    def _pass_on(self, seat: _Seat, job: Job, message: Message, source: Source) -> None:
        if not isinstance(message, Progress):
            seat.job = None
        if (decision := pass_on(source, job, message)) is not None:
            seat.waited = seat.actor.go_on.remote(decision)

    def _replace(self, seat: _Seat, source: Source, error: RayError) -> None:
        """Another actor takes the seat, on whatever node has room, and the job is given back."""
        job, deaths = seat.job, seat.deaths + (not seat.is_there)
        if deaths >= ATTEMPTS:
            first = first_line(error)
            raise WorkerError(f"A worker must start, {deaths} died before they had ({first}).")
        other = self._seated()
        seat.actor, seat.waited, seat.deaths = other.actor, other.waited, deaths
        seat.job, seat.is_there = None, False
        if job is not None:
            source.lost(job)


def _connect(cluster: Cluster) -> None:
    """To a running cluster, or a local one on loopback without a dashboard, and say to which."""
    given: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if cluster.environment:
        given["runtime_env"] = dict(cluster.environment)
    with _devices_left_alone():
        if cluster.address == "auto":
            try:
                ray.init(address="auto", **given)
            except ConnectionError:
                ray.init(address="local", include_dashboard=False, **given)
        elif cluster.address == "local":
            ray.init(address="local", include_dashboard=False, **given)
        else:
            _connect_to(cluster.address, given)
    found, nodes = ray.cluster_resources(), len(_nodes())
    tell(
        "cluster",
        f"Ray: {nodes} node{'s' * (nodes != 1)}, {found.get('CPU', 0):g} CPUs, "
        f"{found.get('GPU', 0):g} GPUs.",
    )


def _connect_to(address: str, given: dict[str, Any]) -> None:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()  # Ray would try for minutes
        ray.init(address=address, **given)
    except Exception as error:
        first = first_line(error)
        raise WorkerError(
            f"A Ray cluster must answer at --address, {address!r} does not ({first}). "
            "Use auto, local, HOST:PORT or ray://HOST:10001; a cluster with a token needs "
            "RAY_AUTH_MODE=token."
        ) from error


@contextmanager
def _devices_left_alone() -> Iterator[None]:
    """Ray does not hide a machine's GPUs from workers that asked for none, and says so no more."""
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
    """What one worker takes of the cluster; `WorkerError` where no node has that."""
    gpus = cluster.gpus
    if gpus is None:
        gpus = 1 if ray.cluster_resources().get("GPU") else 0
    share = {"CPU": cluster.cpus, "GPU": gpus}
    nodes = [node["Resources"] for node in _nodes()]
    if not any(all(node.get(k, 0) >= amount for k, amount in share.items()) for node in nodes):
        most = ", ".join(f"{n.get('CPU', 0):g} CPUs and {n.get('GPU', 0):g} GPUs" for n in nodes)
        raise WorkerError(
            f"One node must have room for a trial, {cluster.cpus:g} CPUs and {gpus:g} GPUs; "
            f"there are {most}. Use a smaller --cpus-per-trial or --gpus-per-trial."
        )
    return share


def _room(share: Mapping[str, float]) -> int:
    """Workers that the whole cluster has resources for, node by node."""
    asked = [(name, amount) for name, amount in share.items() if amount]
    found = [node["Resources"] for node in _nodes()]
    return sum(min(int(node.get(name, 0) / amount) for name, amount in asked) for node in found)


def _visit(visit: Callable[[], str]) -> None:
    """Ask every node; raise `WorkerError` with all complaints."""
    nodes, task = _nodes(), ray.remote(num_cpus=0)(_visited)
    asked = [
        task.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(visit)
        for node in nodes
    ]
    answers = zip(nodes, map(_answer, asked), strict=True)
    complaints = [f"{node['NodeManagerHostname']} {answer}" for node, answer in answers if answer]
    if complaints:
        raise WorkerError(
            f"All nodes must be able to run the trials: {'; '.join(complaints)}. Make them alike."
        )


def _visited(visit: Callable[[], str]) -> str:
    return visit()


def _answer(reference: Any) -> str:
    try:
        return str(ray.get(reference))
    except RayError as error:
        last = last_line(error)
        return f"cannot answer ({last})"
