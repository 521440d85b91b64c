"""A small problem, its grids, and a driver on a real study in a run folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from autotune.problem.budget import Budget, Cost
from autotune.problem.grids import Grids
from autotune.problem.method_facts import MethodFacts
from autotune.problem.plan import Choice
from autotune.problem.problem import Problem
from autotune.study.driver import Driver, DriverOptions, create
from autotune.study.lease import Lease
from autotune.study.run_folder import RunFolder

from .table_engine import STEPS

UNIFORM = MethodFacts(uniform="lowrank", uniform_size="rank")

Driving = Callable[..., AbstractContextManager[Driver]]
"""Opens a driver on the test's run folder: `driving(trials=3, strategy="tpe")`."""

WIDTHS = {"stem": 40, "early": 60, "middle": 80, "late": 120, "top": 150}


def _cost(n: int) -> Cost:
    return Cost(n, n, 4 * n)


@pytest.fixture(scope="session")
def problem() -> Problem:
    """Five units that take low rank, all or scale; half of the budget would be one unit's all."""
    candidates = {
        unit: {
            **{Choice.of("lowrank", rank=r): _cost(r * width) for r in (1, 2, 4)},
            Choice.of("subtune", what="all"): _cost(10 * width),
            Choice.of("scale"): _cost(width // 10),
        }
        for unit, width in WIDTHS.items()
    }
    total = 20 * sum(WIDTHS.values())
    return Problem.of(candidates, Budget(900, total, text="900"), methods=UNIFORM)


@pytest.fixture(scope="session")
def grids() -> Grids:
    return {
        "lr:head": (0.01, 0.03),
        "lr:lowrank": (0.003, 0.01, 0.03),
        "lr:scale": (0.01, 0.1),
        "lr:subtune": (0.001, 0.01),
        "weight_decay": (0.0,),
    }


@pytest.fixture(autouse=True, scope="session")
def _quick_sqlite() -> Iterator[None]:
    """SQLite that does not wait for the disk: these tests end drivers, never the machine."""

    def connected(connection: Any, _: Any) -> None:
        if type(connection).__module__.startswith("sqlite3"):
            connection.execute("PRAGMA synchronous = OFF")

    sqlalchemy.event.listen(sqlalchemy.Engine, "connect", connected)
    yield
    sqlalchemy.event.remove(sqlalchemy.Engine, "connect", connected)


@pytest.fixture(scope="session")
def _fresh_run(tmp_path_factory: pytest.TempPathFactory, problem: Problem) -> Path:
    folder = RunFolder(tmp_path_factory.mktemp("fresh"))
    create(folder, None, problem, {"identity": {"metric": "accuracy"}})
    return folder.path


@pytest.fixture
def new_run(_fresh_run: Path, tmp_path: Path) -> Callable[[str], RunFolder]:
    """A run folder of this name with a study that has no trials yet."""

    def make(name: str) -> RunFolder:
        shutil.copytree(_fresh_run, tmp_path / name)
        return RunFolder(tmp_path / name)

    return make


@pytest.fixture
def folder(new_run: Callable[[str], RunFolder]) -> RunFolder:
    return new_run("run")


def lease_of(folder: RunFolder) -> Lease:
    """A lease by the file alone."""
    return Lease(folder.lease, lambda: None, lambda owner: None, settle=0.01)


@pytest.fixture
def driving(folder: RunFolder, grids: Grids) -> Driving:
    @contextmanager
    def drive(
        *, at: RunFolder = folder, trials: int = 6, strategy: str = "random", **settings: Any
    ) -> Iterator[Driver]:
        options = {"seed": 0, "steps": STEPS, "grids": grids, "pruner": "none", **settings}
        with lease_of(at) as lease:
            yield Driver(at, None, DriverOptions(strategy, **options), lease, trials=trials)

    return drive
