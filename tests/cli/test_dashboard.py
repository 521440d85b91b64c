"""optuna-dashboard on a run: it shows the study and cannot change it."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import pytest

from autotune.run.notebook import Study

from .conftest import SCRIPT

pytest.importorskip("optuna_dashboard", reason="the dashboard is in the extra `dashboard`")
pytestmark = pytest.mark.processes


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def address(finished: Path) -> Iterator[str]:
    port = free_port()
    process = subprocess.Popen(
        [str(SCRIPT), "dashboard", str(finished), "--port", str(port)], stderr=subprocess.DEVNULL
    )
    at, end = f"http://127.0.0.1:{port}", time.monotonic() + 60
    try:
        while True:
            try:
                urlopen(f"{at}/api/studies").close()
                break
            except URLError:
                assert process.poll() is None and time.monotonic() < end, "it did not start"
                time.sleep(0.2)
        yield at
    finally:
        process.kill()
        process.wait()


def test_it_shows_the_study_and_refuses_to_write(address, finished):
    with urlopen(f"{address}/api/studies") as answer:
        (study,) = json.load(answer)["study_summaries"]
    assert study["study_name"] == "autotune"
    with urlopen(f"{address}/api/studies/{study['study_id']}") as answer:
        trials = json.load(answer)["trials"]
    assert len(trials) == len(Study(finished).trials)
    note = Request(
        f"{address}/api/studies/{study['study_id']}/note",
        json.dumps({"body": "changed", "version": 1}).encode(),
        {"Content-Type": "application/json"},
        method="PUT",
    )
    with pytest.raises(HTTPError):
        urlopen(note)
    with urlopen(f"{address}/api/studies/{study['study_id']}") as answer:
        assert json.load(answer)["note"]["body"] == ""


def test_a_port_that_is_taken_is_reported(call, finished):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, _, errors = call("dashboard", finished, "--port", port)
    assert code == 2
    assert f"The dashboard needs a free port, but {port} is not" in errors
