"""What all tests share: a tiny random backbone, and data where `$AUTOTUNE_DATA` has it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest
from filelock import FileLock

if TYPE_CHECKING:
    from torch import nn

    from autotune.backbones.base import Backbone
    from autotune.tasks.base import Task
    from autotune.training.engine import Engine

os.environ.setdefault("AUTOTUNE_LEASE_SETTLE", "0.05")
"""Two drivers never start together here, but where a test says so and waits itself."""

os.environ.setdefault("OMP_NUM_THREADS", "1")
"""Before torch is imported: small networks gain nothing from threads that wait for each other."""


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The digits network of the tests is kept apart from the user's, but trained only once."""
    os.environ.setdefault("AUTOTUNE_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a folder under a name if no test process has made it yet, and returns it."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # its parent is one folder for all workers
        shared = shared.parent

    def make(name: str, fill: Callable[[Path], object]) -> Path:
        folder, done = shared / name, shared / f"{name}.done"
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(shared / f"{name}.lock"):
            if not done.exists():
                fill(folder)
                done.touch()
        return folder

    return make


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Real weights and data; tests that need them are left out without `$AUTOTUNE_DATA`."""
    folder = os.environ.get("AUTOTUNE_DATA")
    if not folder:
        pytest.skip("AUTOTUNE_DATA names no folder, so real weights and data are left out")
    return Path(folder)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Puts a package that adds methods on the path, also of processes started from now on."""
    from autotune.deltas import METHODS

    def make(name: str, methods: dict[str, str], *folders: Path, **modules: str) -> None:
        home = tmp_path / name
        info = home / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        lines = [f"{method} = {place}" for method, place in methods.items()]
        (info / "entry_points.txt").write_text("\n".join(["[autotune.deltas]", *lines]))
        for module, text in modules.items():
            (home / f"{module}.py").write_text(text)
        for folder in (*folders, home):
            monkeypatch.syspath_prepend(folder)
            monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        vars(METHODS).pop("added", None)

    yield make
    vars(METHODS).pop("added", None)


@pytest.fixture
def tiny_network(new_tiny_network: Callable[[], nn.Module]) -> nn.Module:
    return new_tiny_network()


@pytest.fixture(scope="session")
def new_tiny_network() -> Callable[[], nn.Module]:
    """Makes random networks, all alike."""
    return _tiny_network


def _tiny_network() -> nn.Module:
    """(n, 1, 6, 6) → (n, 3): `conv` and `norm`, `first` and `second`, the head `fc`.

    Both blocks have a convolution, a norm and a dropout; the statistics are not the default ones.
    """
    import torch
    from torch import Tensor, nn

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
            self.dropout = nn.Dropout(0.2)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.dropout(self.norm(self.conv(x)).tanh())

    class Tiny(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
            self.first, self.second, self.fc = Block(), Block(), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.second(self.first(self.norm(self.conv(x)))).mean((2, 3)))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Tiny()
        network(2 * torch.randn(32, 1, 6, 6) + 1)
    return network


@pytest.fixture
def tiny_backbone(tiny_network: nn.Module) -> Backbone:
    from autotune.backbones.base import describe

    return describe(tiny_network, source="tiny", family="any")


@pytest.fixture(scope="session")
def tiny_task() -> Task:
    """Three classes of random images with means of their own: 97 to train, 25 and 31 beside."""
    import numpy as np
    import torch

    from autotune.tasks.base import Task
    from autotune.tasks.part import Part

    labels = np.arange(153) % 3
    noise = torch.randn(153, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    images = noise / 2 + torch.from_numpy(labels).float().view(-1, 1, 1, 1)
    return Task("tiny", Part(images, labels), None, None, ("a", "b", "c")).split(0)


@pytest.fixture
def make_engine(tiny_backbone: Backbone, tiny_task: Task) -> Iterator[Callable[..., Engine]]:
    """Engines on the tiny backbone, or on what is given instead; closed at the end."""
    from autotune.backbones.units import find_units
    from autotune.training.engine import Engine
    from autotune.training.loop import Recipe

    made = []

    def make(*, backbone: Any = None, task: Any = None, folds: int = 0, **recipe: Any) -> Engine:
        chosen = backbone or tiny_backbone
        options = Recipe(**{"epochs": 3, "batch_size": 16, **recipe})
        units = find_units(chosen, "tree")
        parts = task or tiny_task
        made.append(Engine(chosen, units, parts, options, input=chosen.input, folds=folds))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


@pytest.fixture(scope="session")
def call() -> Callable[..., tuple[int, str, str]]:
    """Runs the command in this process: exit code, output and errors."""
    from autotune.cli.app import main

    def run(*arguments: object) -> tuple[int, str, str]:
        out, errors = StringIO(), StringIO()
        with (
            patch.object(sys, "argv", ["autotune", *map(str, arguments)]),
            redirect_stdout(out),
            redirect_stderr(errors),
            pytest.raises(SystemExit) as ended,
        ):
            main()
        return int(ended.value.code or 0), out.getvalue(), errors.getvalue()

    return run


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 3 MB."""
    at = tmp_path / "small"
    at.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "none", at], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a small disk cannot be mounted by this user")
    yield at
    subprocess.run(["umount", "-l", at], check=True)


@pytest.fixture
def read_only() -> Iterator[Callable[[Path], Path]]:
    """Makes a folder read-only, also for root, until the test ends."""
    mounted: list[Path] = []

    def make(folder: Path) -> Path:
        for options in (["--bind", folder], ["-o", "remount,ro,bind"]):
            done = subprocess.run(["mount", *options, folder], capture_output=True, check=False)
            if done.returncode:
                pytest.skip("a folder cannot be mounted by this user")
            mounted.append(folder)
        return folder

    yield make
    for folder in dict.fromkeys(mounted):
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture
def full_disk(small_disk: Path) -> Path:
    """A disk with room for 8 kB."""
    (small_disk / "filling").write_bytes(bytes(3 * 2**20 - 8192))
    return small_disk


ALL = ("processes", "slow", "ray", "server", "browser", "install")
"""Those that `AUTOTUNE_TESTS=all` asks for: what any machine can run on its own in minutes."""

OPT_IN = (*ALL, "pages", "accelerator", "downloads")
"""Markers that are left out unless they are asked for."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip tests with an opt-in marker that `AUTOTUNE_TESTS`, separated by commas, lacks."""
    wanted = os.environ.get("AUTOTUNE_TESTS", "").split(",")
    if "all" in wanted:
        wanted = [*wanted, *ALL]
    for item in items:
        for marker in OPT_IN:
            if item.get_closest_marker(marker) and marker not in wanted:
                also = " (or all)" if marker in ALL else ""
                why = f"{marker} is opt-in: AUTOTUNE_TESTS={marker}{also}"
                item.add_marker(pytest.mark.skip(reason=why))
