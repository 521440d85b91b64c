"""Open the backend of a search: in this process, in worker processes, or on Ray."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from autotune.run.settings import descriptions
from autotune.session.setup import Setup
from autotune.session.sources import choose_device
from autotune.study.backends import BACKENDS
from autotune.study.backends.base import Backend
from autotune.utils.distribution import installed_version
from autotune.utils.events import tell, warn
from autotune.utils.timings import spent
from autotune.utils.user_code import import_shipped, import_sources, ship_sources

WHERE = frozenset(name for name, setting in descriptions().items() if setting.is_movable)
"""Settings of where a search runs, which may change when it is resumed."""

ALIKE = ("autotune", "torch", "torchvision", "optuna", "ray", "numpy")
"""Libraries that must have the same version on all nodes."""


def open_backend(setup: Setup) -> Backend:
    """Open the backend of a search; Ray is imported only if it is used."""
    settings = setup.settings
    if settings.where == "inline":
        return _made("inline", setup.engine)
    if settings.where == "processes":
        return _processes(setup)
    return _ray(setup)


def _made(name: str, *arguments: Any) -> Backend:
    backend: Backend = BACKENDS.load(name)(*arguments)
    return backend


@spent("workers")
def _processes(setup: Setup) -> Backend:
    workers = setup.settings.n_workers
    threads = max(1, (os.cpu_count() or 1) // workers)
    gpus = gpus_in_turn(workers, setup.settings.gpus_per_trial)
    for at, gpu in enumerate(gpus):
        tell("worker", f"Worker {at} takes GPU {gpu}.")
    ready = partial(_ready_process, _places(setup), threads, gpus)
    return _made("processes", setup.engine, workers, ready)


def gpus_in_turn(workers: int, share: float | None) -> list[str]:
    """`CUDA_VISIBLE_DEVICES` per worker: one GPU each, or one for several; empty on the CPU.

    `share` is the part of a GPU that a trial takes.
    """
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    visible = named.split(",") if named else [str(i) for i in range(torch.cuda.device_count())]
    visible = [gpu for gpu in visible if gpu not in ("", "-1")]
    if not visible or share == 0:
        return []
    per_gpu = int(1 / share) if share and share < 1 else 1
    if workers > per_gpu * len(visible):
        warn(f"{workers} workers share {len(visible)} GPUs. --gpus-per-trial 0.5 puts two on one.")
    return [visible[(at // per_gpu) % len(visible)] for at in range(workers)]


def _ready_process(places: list[str], threads: int, gpus: list[str], at: int) -> None:
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[at]
    torch.set_num_threads(threads)
    import_sources(places)


@spent("workers")
def _ray(setup: Setup) -> Backend:
    from autotune.study.backends.ray import Cluster

    settings = setup.settings
    folder = Path(tempfile.mkdtemp(prefix="autotune-sources-"))
    try:
        names = ship_sources(_places(setup), folder)
        cpus = settings.cpus_per_trial or 1
        cluster = Cluster(
            address=settings.address or "auto",
            workers=settings.workers,
            cpus=cpus,
            gpus=0 if settings.device == "cpu" else settings.gpus_per_trial,
            environment={"working_dir": str(folder)} if names else None,
        )
        ready = partial(_ready_node, names, max(1, int(cpus)))
        arrived = partial(_arrived, settings.device)
        engine = setup.engine
        parts = [engine.task.train, engine.task.val, engine.task.test]
        visit = partial(complaint, versions(), [f for p in parts if p for f in p.files()])
        engine.to("cpu")  # tensors are sent to other machines through CPU memory
        try:
            return _made("ray", engine, cluster, ready, arrived, visit)
        finally:
            engine.to(choose_device(settings.device))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _ready_node(names: list[str], threads: int) -> None:
    torch.set_num_threads(threads)
    import_shipped(names)


def _arrived(device: str, engine: Any) -> None:
    """Move the engine to the worker's own device, which may differ from the driver's."""
    if hasattr(engine, "to"):
        engine.to(choose_device(device))


def complaint(expected_versions: dict[str, str], files: Sequence[Path]) -> str:
    """Reason why trials cannot run on this node; empty if they can."""
    present = versions()
    differing = [
        f"{name} {present.get(name, '(not installed)')} instead of {expected}"
        for name, expected in expected_versions.items()
        if present.get(name) != expected
    ]
    complaints = [f"has {', '.join(differing)}"] if differing else []
    if missing := next((file for file in files if not file.exists()), None):
        complaints.append(f"lacks {missing} (copy the data there, or give --ship-data)")
    return " and ".join(complaints)


def versions() -> dict[str, str]:
    """Installed versions of the libraries that must be the same on all nodes."""
    installed = {name: installed_version(name) for name in ALIKE}
    return {name: version for name, version in installed.items() if version is not None}


def _places(setup: Setup) -> list[str]:
    """MODULE-or-FILE of every `python:` source, and of the head factory."""
    settings = setup.settings
    sources = (settings.backbone, settings.task)
    named = [s.removeprefix("python:") for s in sources if s.startswith("python:")]
    if isinstance(settings.head_factory, str):
        named.append(settings.head_factory)
    return [name.rpartition(":")[0] for name in named]
