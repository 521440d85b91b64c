"""Contract of backends on a real Ray, and tests of clusters."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from autotune.errors import WorkerError
from autotune.problem.job import Progress, RunsJob
from autotune.study.backends.base import JobList
from study.table_engine import (
    Seeing,
    TableEngine,
    no_complaint,
    nothing,
)

from .test_backends import Noting, WorkersContract, is_alive, jobs

ray = pytest.importorskip("ray")

from ray.cluster_utils import Cluster as Nodes  # noqa: E402

from autotune.study.backends.ray import Cluster, RayBackend  # noqa: E402

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # Ray's own sockets and log files
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

TESTS = str(Path(__file__).parents[2])


@pytest.fixture(scope="class")
def started() -> Iterator[None]:
    """Cluster on this machine that the backends of these tests use and do not shut down.

    Another cluster on this machine, such as that of another test process, is left alone.
    """
    ray.init(
        address="local",
        num_cpus=2,
        num_gpus=2,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": TESTS}},
    )
    yield
    ray.shutdown()


SECOND_SEARCH = """
import ray
from autotune.study.backends.ray import Cluster, _connect

_connect(Cluster("auto", 1))
print("joined" if "GPU" in ray.cluster_resources() else "no GPUs")
"""


def opened(engine: RunsJob, *, visit: Any = no_complaint, **cluster: Any) -> RayBackend:
    options = {"workers": 2, "gpus": 0, **cluster}
    return RayBackend(engine, Cluster(**options), nothing, nothing, visit)


def wait_for_all(backend: RayBackend) -> None:
    """Wait for all workers, which start one after another: the first could run all short jobs."""
    end = time.monotonic() + 120
    while not all(seat.is_ready for seat in backend.seats):
        assert time.monotonic() < end, "the workers did not start within two minutes"
        backend.run(JobList(jobs(2)))


@pytest.mark.usefixtures("started")
class TestRay(WorkersContract):
    def open(self, engine: RunsJob) -> RayBackend:
        return opened(engine)

    def test_workers_stay_from_run_to_run(self):
        pids = []
        with opened(Seeing()) as backend:
            wait_for_all(backend)
            for _ in range(3):
                listed = JobList(jobs(8))
                backend.run(listed)
                pids.append({r.metrics["pid"] for r in listed.results.values()})
        assert len(pids[-1]) == 2
        assert len(set.union(*pids)) == 2

    def test_a_node_that_complains_is_named(self):
        with pytest.raises(WorkerError, match=r"All nodes must .* lacks the pictures"):
            opened(TableEngine(), visit=partial(str, "lacks the pictures"))

    def test_more_than_a_node_has_is_refused(self):
        with pytest.raises(
            WorkerError, match=r"3 CPUs and 0 GPUs; the nodes have 2 CPUs and 2 GPUs"
        ):
            opened(TableEngine(), cpus=3)

    def test_without_a_number_there_are_as_many_workers_as_fit(self):
        with opened(TableEngine(), workers=None, gpus=0.5, cpus=0.25) as backend:
            assert len(backend.seats) == 4

    def test_more_workers_than_there_is_room_for_wait(self):
        with opened(TableEngine(), workers=5) as backend:
            listed = JobList(jobs(9))
            backend.run(listed)
        assert len(listed.results) == 9

    def test_each_worker_has_the_gpu_that_is_reported(self, caplog):
        caplog.set_level("INFO", "autotune")
        with opened(Seeing(), gpus=1) as backend:
            listed = JobList(jobs(8))
            backend.run(listed)
        seen = {int(result.value) for result in listed.results.values()}
        assert seen <= {0, 1}
        assert {f"GPU {gpu}" in caplog.text for gpu in seen} == {True}

    def test_half_a_gpu_puts_two_workers_on_one(self):
        with opened(Seeing(), workers=2, gpus=0.5) as backend:
            wait_for_all(backend)
            listed = JobList(jobs(12))
            backend.run(listed)
            pids = {result.metrics["pid"] for result in listed.results.values()}
        assert len(pids) == 2
        assert len({result.value for result in listed.results.values()}) == 1

    def test_auto_does_not_join_the_private_cluster_of_another_search(self):
        done = subprocess.run(
            [sys.executable, "-c", SECOND_SEARCH],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            env={k: v for k, v in os.environ.items() if not k.startswith("RAY")},
        )
        assert done.stdout.split() == ["no", "GPUs"]

    def test_an_interrupt_leaves_no_worker(self):
        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        listed = Noting(jobs(2))
        listed.report = interrupted  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt), opened(Seeing()) as backend:
            backend.run(listed)
        assert listed.ended == []
        end = time.monotonic() + 10
        while ray.available_resources().get("CPU", 0) < 2 and time.monotonic() < end:
            time.sleep(0.1)
        assert ray.available_resources()["CPU"] == 2


DRIVER = f"""
import sys
from pathlib import Path
sys.path.insert(0, {TESTS!r})
from autotune.study.backends.base import JobList
from autotune.study.backends.ray import Cluster, RayBackend
from study.table_engine import Slow, no_complaint, nothing
from study.backends.test_backends import jobs

if __name__ == "__main__":
    engine = Slow(folder=Path({{folder!r}}))
    cluster = Cluster("local", 2, environment={{{{"env_vars": {{{{"PYTHONPATH": {TESTS!r}}}}}}}}})
    RayBackend(engine, cluster, nothing, nothing, no_complaint).run(JobList(jobs(2)))
"""


def test_workers_end_within_five_seconds_of_their_driver_s_death(tmp_path):
    driver = subprocess.Popen([sys.executable, "-c", DRIVER.format(folder=str(tmp_path))])
    try:
        end = time.monotonic() + 120
        while len(pids := [int(file.name) for file in tmp_path.iterdir()]) < 2:
            assert time.monotonic() < end, "the workers did not start within two minutes"
            time.sleep(0.05)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    end = time.monotonic() + 5
    while any(is_alive(pid) for pid in pids) and time.monotonic() < end:
        time.sleep(0.05)
    assert not [pid for pid in pids if is_alive(pid)]


class Noticing(JobList):
    """Stops a node of the cluster at the fourth report of progress."""

    def __init__(self, n: int, cluster: Any, node: Any) -> None:
        super().__init__(jobs(n))
        self.cluster, self.node, self.n_reports, self.was_lost = cluster, node, 0, 0

    def report(self, job: Any, progress: Progress) -> Any:
        self.n_reports += 1
        if self.n_reports == 4:
            self.cluster.remove_node(self.node, allow_graceful=False)
        return super().report(job, progress)

    def lost(self, job: Any) -> None:
        self.was_lost += 1
        super().lost(job)


@pytest.fixture
def own_address_file(monkeypatch) -> Iterator[None]:
    """Folder of Ray of its own: a test cluster is announced there like one of `ray start`."""
    # Paths of Ray's sockets must be shorter than 108 characters; pytest's folders are too long.
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)
        yield


@pytest.mark.usefixtures("own_address_file")
def test_a_node_that_dies_loses_nothing():
    """One of three nodes with one worker each is killed while jobs run."""
    environment = {"env_vars": {"PYTHONPATH": TESTS}}
    try:
        head = {"num_cpus": 1, "include_dashboard": False}
        cluster = Nodes(initialize_head=True, head_node_args=head)
    except Exception as error:  # Ray raises a bare Exception if a node is too slow
        pytest.skip(f"Ray's test cluster could not start here: {error}")
    try:
        second, third = cluster.add_node(num_cpus=1), cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        where = Cluster(cluster.address, environment=environment)
        with RayBackend(Seeing(), where, nothing, nothing, no_complaint) as backend:
            assert len(backend.seats) == 3
            wait_for_all(backend)
            warm = JobList(jobs(30))
            backend.run(warm)
            assert len({r.metrics["pid"] for r in warm.results.values()}) == 3
            listed, end = Noticing(40, cluster, second), time.monotonic() + 60
            while (
                not listed.was_lost and time.monotonic() < end
            ):  # Ray notices a death with a delay
                backend.run(listed)
                listed.waiting += jobs(20)
        assert len(listed.results) == 40
        assert all(isinstance(result, Progress) for result in listed.results.values())
        assert listed.was_lost >= 1
        assert third is not None
    finally:
        cluster.shutdown()
        os.environ.pop("RAY_ADDRESS", None)
