"""Requests and deltas that are made to harm the server are refused, and cost nothing."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
import tracemalloc
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import pytest
import torch
import uvicorn
from fastapi.testclient import TestClient

from autotune.backbones.inputs import InputDescription
from autotune.deltas.artifact import Artifact, to_bytes
from autotune.deploy.serve import slow_clients
from autotune.deploy.serve.app import make_app
from autotune.deploy.serve.limits import Limits
from autotune.deploy.serve.requests import read_inputs
from autotune.deploy.serve.service import Service
from autotune.deploy.serve.slow_clients import TimedProtocol
from autotune.errors import TaskError
from autotune.problem.plan import Choice, Plan
from deploy.export.subjects import Net

IMAGE = InputDescription(size=(8, 8), channels=1, mean=(0.5,), std=(0.25,))
PLAN = Plan({"layer3.1": Choice.of("lowrank", rank=2)})
LONG = "a" * 60_000


@pytest.fixture(scope="module")
def net() -> Net:
    return Net("digits")


@pytest.fixture
def artifact(net) -> Artifact:
    artifact = net.subject(PLAN).artifact
    artifact.header["input"] = IMAGE.to_json()
    return artifact


@pytest.fixture
def service(net, artifact, tmp_path) -> Service:
    made = Service(net.backbone, Limits(bytes=200_000, examples=8), tmp_path)
    made.put("a", "a.safetensors", deepcopy(artifact))
    return made


@pytest.fixture
def client(service) -> Iterator[TestClient]:
    with TestClient(make_app(service), base_url="http://localhost") as client:
        yield client


# requests


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": [LONG, *[""] * 15_000]},
        {"inputs": [[LONG], *[[]] * 15_000]},
        {"inputs": [[[0] * 8] * 7 + [[0] * 9]]},
        {"inputs": [[["0"] * 8] * 8]},
        {"inputs": [[[True] * 8] * 8]},
        {"inputs": [[[None] * 8] * 8]},
        {"inputs": [[[{}] * 8] * 8]},
        {"inputs": [[[0] * 8] * 8], "dtype": "V100000000"},
        {"inputs": [[[0] * 8] * 8], "dtype": "U100000000"},
        {"inputs": [[[0] * 8] * 8], "dtype": "(9,9)f8"},
        {"inputs": [[[0] * 8] * 8], "dtype": "f8,f8"},
        {"inputs": [[[0] * 8] * 8], "dtype": ["f8"]},
        {"inputs": [[[0] * 8] * 8], "dtype": 3},
        {"inputs": [0] * 60_000},
        {"inputs": [[[1e300] * 8] * 8]},
        {"inputs": [[[1e300] * 8] * 8], "dtype": "float64"},
        {"inputs": [[[1e30] * 8] * 8], "dtype": "float16"},
        {"inputs": [[[10**300] * 8] * 8]},
        {"inputs": [[[10**30] * 8] * 8], "dtype": "uint8"},
        {"inputs": [[[float("nan")] * 8] * 8]},
    ],
    ids=range(20),
)
def test_inputs_that_are_none_are_refused_before_an_array_is_made(body):
    content = json.dumps(body).encode()
    tracemalloc.start()
    try:
        with pytest.raises(TaskError):
            read_inputs(content, "application/json", IMAGE, 8)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10_000_000


def test_a_refusal_does_not_repeat_a_long_text(client):
    answers = [
        client.put("/tasks/b", json={"path": LONG}),
        client.put("/tasks/b", json={"path": "/".join(["a"] * 30_000)}),
        client.put(f"/tasks/{LONG}", json={"path": "x"}),
        client.post("/predict/a", json={"inputs": LONG}),
        client.post("/predict/a", json={LONG: 1}),
        client.put("/tasks/b", content=LONG),
    ]
    for answer in answers:
        assert answer.status_code == 422, answer.text
        assert len(answer.text) < 1000


def test_inputs_on_which_the_network_overflows_are_refused(client, service):
    by_row = service.multi.by_row
    service.multi.by_row = lambda *args: [row * float("inf") for row in by_row(*args)]
    answer = client.post("/predict/a", json={"inputs": [[[0] * 8] * 8]})
    assert (answer.status_code, "not finite" in answer.json()["detail"]) == (422, True)


# deltas


def put(client: TestClient, folder: Path, artifact: Artifact) -> tuple[int, str]:
    (folder / "odd.safetensors").write_bytes(to_bytes(artifact))
    answer = client.put("/tasks/odd", json={"path": "odd.safetensors"})
    return answer.status_code, answer.text


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e38])
@pytest.mark.parametrize("name", ["head/weight", "delta"])
def test_a_delta_with_values_that_are_no_numbers_is_refused(
    client, artifact, tmp_path, name, value
):
    tensors = artifact.tensors
    chosen = next(key for key in tensors if key.startswith(name))
    tensors[chosen] = torch.full_like(tensors[chosen], value)
    for key in tensors:
        if value == 1e38 and key.startswith("delta"):
            tensors[key] = torch.full_like(tensors[key], value)
    status, text = put(client, tmp_path, artifact)
    assert (status, "finite" in text) == (422, True), text
    assert [task["name"] for task in client.get("/tasks").json()] == ["a"]


@pytest.mark.parametrize(
    "remove", ["head/weight", "head/bias", "head/", "delta/"], ids=lambda text: text
)
def test_a_delta_without_a_part_is_refused(client, artifact, tmp_path, remove):
    for key in [key for key in artifact.tensors if key.startswith(remove)]:
        del artifact.tensors[key]
    status, text = put(client, tmp_path, artifact)
    assert status == 422, text
    assert str(tmp_path) not in text


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("metrics", {"val": float("nan")}),
        ("cost", float("inf")),
        ("metrics", "x" * 2_000_000),
        ("task", None),
        ("task", [1]),
        ("task", {"classes": [[]] * 5}),
        ("task", {"classes": [float("nan")] * 5}),
        ("task", {"classes": {"a": 1}}),
        ("input", 3),
        ("input", {"shape": [10**9]}),
        ("input", {"shape": [3]}),
        ("input", {**IMAGE.to_json(), "channels": 10**6}),
        ("plan", {}),
        ("about", 3),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_delta_with_a_hostile_header_is_refused(client, artifact, tmp_path, key, value):
    artifact.header[key] = value
    status, text = put(client, tmp_path, artifact)
    assert status == 422 or key == "about", text
    assert len(text) < 1000 or status == 201
    assert client.get("/tasks").status_code == 200
    assert client.post("/predict/a", json={"inputs": [[[0] * 8] * 8]}).status_code == 200


def test_no_text_shows_where_files_are(client, service, artifact, tmp_path):
    (tmp_path / "broken.safetensors").write_bytes(b"x")
    service.put("c", str(tmp_path / "c.safetensors"), artifact)
    texts = [
        client.put("/tasks/b", json={"path": "broken.safetensors"}).text,
        client.put("/tasks/b", json={"path": "none.safetensors"}).text,
        client.put("/tasks/b", json={"path": "a" * 5000}).text,
        client.get("/tasks").text,
    ]
    assert not any(str(tmp_path) in text for text in texts)
    assert '"c.safetensors"' in texts[-1]


# where a request comes from


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"host": "127.0.0.1:8000"}, 200),
        ({"host": "[::1]:8000"}, 200),
        ({"origin": "http://localhost:3000"}, 200),
        ({"host": "evil.example"}, 403),
        ({"host": "localhost.evil.example"}, 403),
        ({"host": "192.168.0.1"}, 403),
        ({"host": "[::"}, 403),
        ({"host": ""}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "http://localhost@evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
    ],
    ids=str,
)
def test_without_a_token_only_this_machine_is_answered(client, headers, status):
    assert client.get("/tasks", headers={"host": headers.get("host", "localhost")}).status_code in (
        200,
        status,
    )
    body = {"inputs": [[[0] * 8] * 8]}
    assert client.post("/predict/a", json=body, headers=headers).status_code == status


def test_with_a_token_the_host_is_free(service):
    headers = {"origin": "https://other.example", "authorization": "Bearer t"}
    with TestClient(make_app(service, "t"), base_url="http://any.example") as client:
        assert client.get("/tasks", headers=headers).status_code == 200


# slow clients


@pytest.fixture
def port(service, monkeypatch) -> Iterator[int]:
    monkeypatch.setattr(slow_clients, "HEADER_SECONDS", 0.3)
    object.__setattr__(service.limits, "seconds", 0.3)
    object.__setattr__(service.limits, "waiting", 2)
    config = uvicorn.Config(make_app(service), http=TimedProtocol, log_level="error", port=0)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as bound:
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([bound])))
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield bound.getsockname()[1]
        server.should_exit = True
        thread.join()


def sent(port: int, text: str) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    connection.sendall(text.encode())
    return connection


def request(body: str, length: int) -> str:
    return f"POST /predict/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}"


def test_slow_bodies_block_nobody_and_are_ended(port):
    body = json.dumps({"inputs": [[[0] * 8] * 8]})
    slow = [sent(port, request("{", 1000)) for _ in range(5)]
    with sent(port, request(body, len(body))) as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
    for connection in slow:
        with connection:
            assert connection.recv(100).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize("text", ["", "POST /predict/a HTTP/1.1\r\nHost:"])
def test_headers_that_do_not_arrive_end_the_connection(port, text):
    with sent(port, text) as connection:
        assert connection.recv(100) == b""


def test_headers_of_a_second_request_have_the_same_limit(port):
    body = json.dumps({"inputs": [[[0] * 8] * 8]})
    with sent(port, request(body, len(body))) as connection:
        answer = b""
        while not answer.endswith(b"}"):  # headers and body may come one after the other
            answer += connection.recv(10_000)
        assert answer.startswith(b"HTTP/1.1 200")
        connection.sendall(b"POST /predict/a HTTP/1.1\r\n")
        assert connection.recv(100) == b""
