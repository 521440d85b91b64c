"""Contract of every backend, and additional tests of worker processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from autotune.errors import WorkerError
from autotune.problem.job import Decision, Failure, Job, Progress, RunsJob
from autotune.problem.plan import Choice, Plan
from autotune.study.backends.base import Backend, JobList
from autotune.study.backends.inline import InlineBackend
from autotune.study.backends.processes import ProcessBackend
from study.table_engine import (
    STEPS,
    AlwaysKilled,
    NotLoadable,
    OnceKilled,
    TableEngine,
    looked_up,
    nothing,
)


def jobs(n: int = 7) -> list[Job]:
    return [Job(f"job {i}", Plan({"top": Choice.of("scale")}), {}, seed=i) for i in range(n)]


class Noting(JobList):
    """Records every call of the backend, and stops some jobs."""

    def __init__(self, listed: list[Job], stop: dict[str, int] | None = None) -> None:
        super().__init__(listed)
        self.stop = stop or {}
        self.reported: list[tuple[str, int]] = []
        self.ended: list[tuple[str, str]] = []

    def report(self, job: Job, progress: Progress) -> Decision:
        super().report(job, progress)
        self.reported.append((job.name, progress.step))
        return Decision.STOP if self.stop.get(job.name) == progress.step else Decision.CONTINUE

    def finish(self, job: Job) -> None:
        super().finish(job)
        self.ended.append((job.name, "finished"))

    def fail(self, job: Job, failure: Failure) -> None:
        super().fail(job, failure)
        self.ended.append((job.name, "failed"))

    def lost(self, job: Job) -> None:
        super().lost(job)
        self.ended.append((job.name, "lost"))


class BackendContract:
    """Tests that every backend must pass; subclasses open the backend."""

    def open(self, engine: RunsJob) -> Backend:
        raise NotImplementedError

    def test_every_job_is_finished_or_failed_exactly_once(self):
        listed = Noting(jobs())
        with self.open(TableEngine(fails=("job 1", "job 4"))) as backend:
            backend.run(listed)
        failed = [f"job {i}" for i in (1, 4)]
        expected = {(j.name, "failed" if j.name in failed else "finished") for j in jobs()}
        assert sorted(listed.ended) == sorted(expected)

    def test_progress_is_reported_step_by_step(self):
        listed = Noting(jobs(3))
        with self.open(TableEngine()) as backend:
            backend.run(listed)
        for job in jobs(3):
            steps = [step for name, step in listed.reported if name == job.name]
            last = listed.results[job.name]
            assert steps == list(range(1, STEPS + 1))
            assert (last.value, last.artifact) == (
                looked_up(job, STEPS),
                f"{job.name}:{job.seed}".encode(),
            )

    def test_a_failure_has_its_type_and_first_line(self):
        listed = Noting(jobs(1))
        with self.open(TableEngine(fails=("job 0",))) as backend:
            backend.run(listed)
        assert listed.results == {"job 0": Failure("ValueError", "job 0 cannot be")}

    def test_stop_ends_a_job_at_once(self):
        listed = Noting(jobs(4), stop={"job 2": 2})
        with self.open(TableEngine()) as backend:
            backend.run(listed)
        assert [step for name, step in listed.reported if name == "job 2"] == [1, 2]
        assert ("job 2", "finished") in listed.ended
        assert len(listed.ended) == 4

    def test_runs_again_and_without_jobs(self):
        with self.open(TableEngine()) as backend:
            backend.run(Noting([]))
            for _ in range(2):
                listed = Noting(jobs(2))
                backend.run(listed)
                assert len(listed.ended) == 2

    def test_a_study_comes_to_as_many_finished_trials_as_asked(self, driving):
        with driving(trials=6) as driver, self.open(TableEngine(fails=("trial 2",))) as backend:
            backend.run(driver)
            states = [trial.state_name for trial in driver.trials]
            assert not driver.live
        assert states == ["complete"] * 2 + ["failed"] + ["complete"] * 3

    def test_results_are_those_of_inline(self, driving, new_run):
        """Only with `random`: with several workers `tpe` proposes before it knows all results."""
        values = []
        for at, open in ((new_run("inline"), InlineBackend), (new_run("own"), self.open)):
            with driving(at=at, trials=6) as driver, open(TableEngine()) as backend:
                backend.run(driver)
                values.append([(t.number, t.plan, t.value, t.curve) for t in driver.trials])
        assert values[0] == values[1]


class TestInline(BackendContract):
    def open(self, engine: RunsJob) -> Backend:
        return InlineBackend(engine)

    def test_an_interrupt_is_no_failure(self):
        def interrupted(job: Job) -> Iterator[Progress]:
            yield Progress(1, 0.5, {})
            raise KeyboardInterrupt

        listed = Noting(jobs(1))
        with pytest.raises(KeyboardInterrupt):
            InlineBackend(interrupted).run(listed)
        assert listed.ended == []

    def test_a_stopped_job_is_closed(self):
        """The engine releases what it opened before the next job starts."""
        order = []

        def engine(job: Job) -> Iterator[Progress]:
            try:
                for step in range(3):
                    yield Progress(step + 1, 0.5, {})
            finally:
                order.append(job.name)

        InlineBackend(engine).run(Noting(jobs(2), stop={"job 0": 1}))
        assert order == ["job 0", "job 1"]


def workers_of(backend: ProcessBackend) -> list[int]:
    return [worker.process.pid or 0 for worker in backend.workers]


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


class WorkersContract(BackendContract):
    """Tests of backends whose workers may die and receive a pickled engine."""

    def test_a_killed_worker_gives_its_trial_back(self, driving, tmp_path):
        """A trial whose worker is killed at the third step resumes there, and the run ends."""
        engine = OnceKilled(victim="trial 1", mark=tmp_path / "killed")
        with driving(trials=4) as driver, self.open(engine) as backend:
            backend.run(driver)
            trials, attempt = driver.trials, driver.study.trials[1].user_attrs["attempt"]
        assert engine.mark.exists()
        assert attempt == 1
        assert all(trial.is_complete and len(trial.curve) == STEPS for trial in trials)

    def test_a_trial_that_kills_every_worker_fails_and_the_others_run(self, driving):
        with driving(trials=3) as driver, self.open(AlwaysKilled(victim="trial 1")) as backend:
            backend.run(driver)
            states = {trial.number: trial.state_name for trial in driver.trials}
        assert states == {0: "complete", 1: "failed", 2: "complete"}

    def test_a_listed_job_whose_worker_dies_is_run_again(self, tmp_path):
        listed = JobList(jobs(3))
        with self.open(OnceKilled(victim="job 1", mark=tmp_path / "killed")) as backend:
            backend.run(listed)
        assert listed.results["job 1"].value == looked_up(jobs(3)[1], STEPS)
        assert len(listed.results) == 3

    def test_an_engine_that_cannot_be_loaded_is_an_error(self):
        with self.open(NotLoadable()) as backend, pytest.raises(WorkerError) as error:
            backend.run(Noting(jobs(1)))
        assert "this network lives in one process only" in str(error.value)
        assert "--workers 1" in str(error.value)

    def test_an_engine_that_cannot_be_pickled_is_an_error(self):
        with pytest.raises(WorkerError, match="--workers 1"):
            self.open(lambda job: iter(()))


@pytest.mark.processes
class TestProcesses(WorkersContract):
    def open(self, engine: RunsJob) -> ProcessBackend:
        return ProcessBackend(engine, 2, nothing)

    def test_a_killed_worker_alone_is_replaced(self, tmp_path):
        with self.open(OnceKilled(victim="job 1", mark=tmp_path / "killed")) as backend:
            before = workers_of(backend)
            backend.run(JobList(jobs(4)))
            assert len(set(before) & set(workers_of(backend))) == 1

    def test_a_worker_that_dies_between_two_runs_is_replaced(self):
        with self.open(TableEngine()) as backend:
            backend.run(Noting(jobs(2)))
            os.kill(workers_of(backend)[0], signal.SIGKILL)
            listed = JobList(jobs(4))
            backend.run(listed)
        assert all(isinstance(result, Progress) for result in listed.results.values())
        assert len(listed.results) == 4

    def test_workers_end_when_the_backend_is_closed(self):
        with self.open(TableEngine()) as backend:
            pids = workers_of(backend)
            assert all(is_alive(pid) for pid in pids)
        assert not any(is_alive(pid) for pid in pids)

    def test_what_makes_a_worker_ready_may_refuse(self):
        ready = partial(int, "no number")  # its second argument is the index of the worker
        with ProcessBackend(TableEngine(), 1, ready) as backend, pytest.raises(WorkerError):
            backend.run(Noting(jobs(1)))

    def test_workers_end_within_five_seconds_of_their_driver_s_death(self, tmp_path):
        driver = subprocess.Popen([sys.executable, "-c", DRIVER.format(folder=str(tmp_path))])
        try:
            pids = wait_for_workers(tmp_path, 2)
        finally:
            driver.kill()
            driver.wait()
        end = time.monotonic() + 5
        while any(is_alive(pid) for pid in pids) and time.monotonic() < end:
            time.sleep(0.05)
        assert not [pid for pid in pids if is_alive(pid)]


DRIVER = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from autotune.study.backends.base import JobList
from autotune.study.backends.processes import ProcessBackend
from study.table_engine import Slow, nothing
from study.backends.test_backends import jobs

if __name__ == "__main__":
    ProcessBackend(Slow(folder=Path({{folder!r}})), 2, nothing).run(JobList(jobs(2)))
"""


def wait_for_workers(folder: Path, n: int) -> list[int]:
    """Process IDs that slow workers have written into `folder`."""
    end = time.monotonic() + 30
    while len(pids := [int(file.name) for file in folder.iterdir()]) < n:
        assert time.monotonic() < end, "the workers did not start within 30 s"
        time.sleep(0.05)
    assert all(is_alive(pid) for pid in pids)
    return pids


LOADING = """
import os, signal
from autotune.study.backends.processes import ProcessBackend
from study.backends.test_backends import Noting, TableEngine, jobs, nothing

if __name__ == "__main__":
    signal.signal(signal.SIGINT, lambda *_: None)
    listed = Noting(jobs(2))
    with ProcessBackend(TableEngine(), 1, nothing) as backend:
        os.killpg(0, signal.SIGINT)
        backend.run(listed)
    assert [how for _, how in listed.ended] == ["finished"] * 2, listed.ended
"""


@pytest.mark.processes
def test_ctrl_c_while_a_worker_loads_is_the_driver_s_alone(tmp_path):
    """It reaches the whole group of processes, also a worker that has not said what it ignores."""
    script = tmp_path / "script.py"
    script.write_text(LOADING)
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert (done.returncode, done.stderr) == (0, "")
