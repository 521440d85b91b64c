"""`autotune serve`, as a process: under load, while tasks come and go, and to its end."""

from __future__ import annotations

import http.client
import json
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from .conftest import SCRIPT

BODY = json.dumps({"inputs": [[[[0.5] * 8] * 8]] * 2}).encode()
JSON = {"content-type": "application/json"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def serving(*arguments: object) -> Iterator[tuple[subprocess.Popen[str], int]]:
    port = free_port()
    command = [str(SCRIPT), "serve", *map(str, arguments), "--port", str(port)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        while True:
            try:
                assert ask(port, "GET", "/health")[0] == 200
                break
            except OSError:
                assert process.poll() is None, process.stderr and process.stderr.read()
                time.sleep(0.05)
        yield process, port
    finally:
        process.kill()
        process.communicate()


def ask(port: int, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body, JSON)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


class Load:
    """Threads that ask again and again until the server is gone."""

    def __init__(self, port: int, n: int = 4) -> None:
        self.answers: list[tuple[int, bytes]] = []
        self.threads = [threading.Thread(target=self._run, args=(port,)) for _ in range(n)]
        for thread in self.threads:
            thread.start()

    def _run(self, port: int) -> None:
        while True:
            try:
                self.answers.append(ask(port, "POST", "/predict/a", BODY))
            except (ConnectionError, http.client.RemoteDisconnected):
                return  # it takes no requests any more

    def join(self) -> None:
        for thread in self.threads:
            thread.join(30)
            assert not thread.is_alive()


@pytest.mark.processes
def test_under_load_tasks_come_and_go_and_a_stop_answers_what_was_accepted(finished, tmp_path):
    shutil.copy(finished / "best" / "delta.safetensors", tmp_path)
    with serving("--delta", f"a={finished}", "--folder", tmp_path) as (process, port):
        load = Load(port)
        for _ in range(2):
            added = ask(port, "PUT", "/tasks/b", b'{"path": "delta.safetensors"}')
            assert added[0] == 201, added
            assert ask(port, "POST", "/predict/b", BODY)[0] == 200
            assert ask(port, "DELETE", "/tasks/b")[0] == 200
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        load.join()
        assert len(load.answers) > 10
        assert {status for status, _ in load.answers} == {200}
        first, *others = (json.loads(body)["predictions"][0][0] for _, body in load.answers)
        assert all(other["class"] == first["class"] for other in others)
        assert [other["probability"] for other in others] == pytest.approx(
            [first["probability"]] * len(others), rel=1e-5
        )


@pytest.mark.processes
def test_ctrl_c_ends_it_quietly(finished):
    with serving("--delta", f"a={finished}") as (process, port):
        assert ask(port, "POST", "/predict", BODY)[0] == 200
        process.send_signal(signal.SIGINT)
        _, message = process.communicate(timeout=30)
        assert "Traceback" not in message
        assert process.returncode in (0, 130)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "A server needs a backbone"),
        (("--delta", "a"), "A task must be written NAME=RUN or NAME=DELTA"),
        (("--delta", "a=nowhere"), "'nowhere'"),
        (("--backbone", "builtin:digits", "--folder", "nowhere"), "'nowhere' does not"),
        (("--backbone", "builtin:digits", "--host", "0.0.0.0"), "needs a token"),
    ],
)
def test_what_cannot_be_served(call, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = call("serve", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_a_port_that_is_taken(call, finished):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, _, errors = call("serve", "--delta", f"a={finished}", "--port", port)
    assert code == 2
    assert f"needs a free port, but {port} on 127.0.0.1 is not" in errors
