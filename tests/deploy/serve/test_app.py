"""Server: predictions, adding and removing tasks, limits, and refused requests."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from autotune.backbones.inputs import InputDescription
from autotune.deltas.artifact import to_bytes
from autotune.deploy.serve.app import make_app
from autotune.deploy.serve.batching import Ask
from autotune.deploy.serve.limits import Limits
from autotune.deploy.serve.service import Service
from autotune.problem.plan import Choice, Plan
from deploy.export.subjects import Net


def local_client(app: FastAPI) -> TestClient:
    """Client on this machine."""
    return TestClient(app, base_url="http://localhost")


IMAGE = InputDescription(size=(8, 8), channels=1, mean=(0.5,), std=(0.25,))
PLANS = {
    "a": Plan({"layer3.1": Choice.of("lowrank", rank=2)}),
    "b": Plan({"layer3.1": Choice.of("scale"), "layer3.0": Choice.of("lowrank", rank=1)}),
}


@pytest.fixture(scope="module")
def net() -> Net:
    return Net("digits")


@pytest.fixture(scope="module")
def artifacts(net):
    return {name: with_images(net.subject(plan).artifact) for name, plan in PLANS.items()}


def with_images(artifact):
    artifact.header["input"] = IMAGE.to_json()
    return artifact


@pytest.fixture
def folder(tmp_path, artifacts) -> Path:
    (tmp_path / "allowed").mkdir()
    (tmp_path / "allowed" / "b.safetensors").write_bytes(to_bytes(artifacts["b"]))
    (tmp_path / "secret.safetensors").write_bytes(to_bytes(artifacts["b"]))
    return tmp_path / "allowed"


@pytest.fixture
def service(net, artifacts, folder) -> Service:
    made = Service(net.backbone, Limits(bytes=50_000, examples=8), folder)
    made.put("a", "a.safetensors", artifacts["a"])
    return made


@pytest.fixture
def client(service) -> Iterator[TestClient]:
    with local_client(make_app(service)) as client:
        yield client


def numbers(n: int) -> list:
    return np.random.default_rng(n).random((n, 1, 8, 8)).tolist()


def png(size: int = 8) -> bytes:
    pixels = np.arange(size * size, dtype=np.uint8).reshape(size, size)
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_numbers_are_answered_as_the_network_does(client, service):
    inputs = numbers(3)
    answer = client.post("/predict/a?top=5", json={"inputs": inputs}).json()
    logits = service.multi(torch.tensor(inputs))[service.tasks["a"].key].softmax(1)
    for row, best in zip(logits, answer["predictions"], strict=True):
        assert [p["probability"] for p in best] == pytest.approx(sorted(row.tolist())[::-1])
        assert best[0]["class"] == str(int(row.argmax()))


def test_an_image_and_its_pixels_give_the_same_prediction(client):
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8).tolist()
    as_image = client.post("/predict/a", content=png(), headers={"content-type": "image/png"})
    without_dtype = client.post("/predict/a", json={"inputs": pixels})
    as_pixels = client.post("/predict/a", json={"inputs": pixels, "dtype": "uint8"})
    scaled = ((np.array(pixels) / 255 - 0.5) / 0.25)[None, None].tolist()
    as_floats = client.post("/predict/a", json={"inputs": scaled})
    answers = [r.json()["predictions"][0][0] for r in (as_image, as_pixels, as_floats)]
    assert len({p["class"] for p in answers}) == 1
    assert answers[0]["probability"] == pytest.approx(answers[2]["probability"], rel=1e-4)
    assert answers[0] == answers[1] and without_dtype.json() == as_pixels.json()


def test_all_tasks_at_once(client):
    client.put("/tasks/b", json={"path": "b.safetensors"})
    inputs = {"inputs": numbers(2)}
    together = client.post("/predict", json=inputs).json()["predictions"]
    for name in "ab":
        alone = client.post(f"/predict/{name}", json=inputs).json()["predictions"]
        for one, other in zip(alone, together[name], strict=True):
            assert one[0]["class"] == other[0]["class"]
            assert one[0]["probability"] == pytest.approx(other[0]["probability"], rel=1e-4)


def test_tasks_come_and_go_while_others_are_answered(client):
    inputs, stop = {"inputs": numbers(1)}, threading.Event()
    statuses: list[int] = []

    def ask() -> None:
        while not stop.is_set():
            statuses.append(client.post("/predict/a", json=inputs).status_code)

    asking = threading.Thread(target=ask)
    asking.start()
    first = client.post("/predict/a", json=inputs).json()
    for _ in range(3):
        assert client.put("/tasks/b", json={"path": "b.safetensors"}).status_code == 201
        assert [task["name"] for task in client.get("/tasks").json()] == ["a", "b"]
        assert client.post("/predict/b", json=inputs).status_code == 200
        assert client.delete("/tasks/b").json() == {"removed": "b"}
        assert client.post("/predict/b", json=inputs).status_code == 404
    stop.set()
    asking.join()
    assert set(statuses) == {200}
    again = client.post("/predict/a", json=inputs).json()
    ((one,),), ((other,),) = first["predictions"], again["predictions"]
    assert one["class"] == other["class"]
    # Requests at the same moment form one batch, whose size changes the last bits.
    assert one["probability"] == pytest.approx(other["probability"], rel=1e-4)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("../secret.safetensors", "must be inside the allowed folder"),
        ("/etc/passwd", "must be inside the allowed folder"),
        ("none.safetensors", "must be inside the allowed folder"),
        ("", "must be inside the allowed folder"),
        ("a\0b", "needs a valid path"),
        ("link.safetensors", "must be inside the allowed folder"),
        ("pickle.safetensors", "must be what autotune wrote"),
    ],
)
def test_a_file_that_may_not_be_added(client, folder, path, message):
    (folder / "link.safetensors").symlink_to(folder.parent / "secret.safetensors")
    (folder / "pickle.safetensors").write_bytes(b"\x80\x04cos\nsystem\n(S'true'\ntR.")
    answer = client.put("/tasks/b", json={"path": path})
    assert (answer.status_code, message in answer.json()["detail"]) == (422, True), answer.json()
    assert [task["name"] for task in client.get("/tasks").json()] == ["a"]


@pytest.mark.parametrize("name", ["a b", "*", "1a", "x" * 101, "a.b"])
def test_a_name_that_is_none(client, name):
    answer = client.put(f"/tasks/{name}", json={"path": "b.safetensors"})
    assert (answer.status_code, "A task name has" in answer.json()["detail"]) == (422, True)


def test_a_name_that_is_taken(client):
    answer = client.put("/tasks/a", json={"path": "b.safetensors"})
    assert (answer.status_code, "'a' is taken" in answer.json()["detail"]) == (422, True)


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"", "application/json", 422),
        (b"{}", "application/json", 422),
        (b"[1]", "application/json", 422),
        (b'{"inputs": "x"}', "application/json", 422),
        (b'{"inputs": [[1, 2], [3]]}', "application/json", 422),
        (b'{"inputs": [[[1e999]]]}', "application/json", 422),
        (b'{"inputs": 5}', "application/json", 422),
        (b'{"inputs": []}', "application/json", 422),
        (b'{"inputs": [[0.5]], "dtype": "uint8"}', "application/json", 422),
        (b'{"inputs": [[1]], "dtype": "object"}', "application/json", 422),
        (b'{"inputs": [[300]], "dtype": "uint8"}', "application/json", 422),
        (b'{"inputs": ' + b"[" * 5000, "application/json", 422),
        (b'{"inputs": [1' + b"0" * 500 + b"]}", "application/json", 422),
        (b"GIF89a", "image/gif", 422),
        (b"\x80\x04cos\nsystem\n(S'true'\ntR.", "application/octet-stream", 422),
        (b" " * 60_000, "application/json", 413),
    ],
)
def test_a_request_that_cannot_be(client, content, kind, status):
    answer = client.post("/predict/a", content=content, headers={"content-type": kind})
    assert answer.status_code == status, answer.text
    assert answer.json()["detail"]
    assert client.post("/predict/a", json={"inputs": numbers(1)}).status_code == 200


def strip() -> bytes:
    """Image of few bytes that is huge once its short side has the size that the network takes."""
    file = BytesIO()
    Image.new("L", (1, 50_000)).save(file, "PNG")
    return file.getvalue()


def test_an_image_that_would_fill_memory_is_refused(net, artifacts):
    service, big = Service(net.backbone), net.subject(PLANS["a"]).artifact
    big.header["input"] = {**IMAGE.to_json(), "resize": 256}  # type: ignore[index]
    service.put("a", "a", big)
    with local_client(make_app(service)) as client:
        answer = client.post("/predict/a", content=strip(), headers={"content-type": "image/png"})
    assert (answer.status_code, "would fill memory" in answer.json()["detail"]) == (422, True)


def test_one_request_that_the_network_cannot_take_fails_alone(net, artifacts):
    service = Service(net.backbone)
    service.put("a", "a", artifacts["a"])
    by_row = service.multi.by_row

    def refusing(inputs: torch.Tensor, names: list[str]) -> list[torch.Tensor]:
        if (inputs > 100).any():
            raise IndexError("index out of range")
        return by_row(inputs, names)

    service.multi.by_row = refusing
    asks = [Ask(torch.full((1, 1, 8, 8), value), service.tasks["a"].key) for value in (0.5, 1e3)]
    fine, refused = service._compute(asks)
    assert torch.equal(fine, by_row(asks[0].inputs, [asks[0].task])[0][None])
    assert "cannot process these inputs (index out of range)" in str(refused)


def test_a_name_that_is_given_again_has_its_own_classes(client, service, net, folder):
    other = with_images(net.subject(PLANS["a"]).artifact)
    other.header["task"]["classes"] = list("vwxyz")  # type: ignore[index]
    (folder / "other.safetensors").write_bytes(to_bytes(other))
    first = client.post("/predict/a", json={"inputs": numbers(1)}).json()
    client.delete("/tasks/a")
    client.put("/tasks/a", json={"path": "other.safetensors"})
    again = client.post("/predict/a", json={"inputs": numbers(1)}).json()
    named = dict(zip("01234", "vwxyz", strict=True))
    assert again["predictions"][0][0]["class"] == named[first["predictions"][0][0]["class"]]


@pytest.mark.parametrize("classes", [["a"], "abcde", [1, 2, 3, 4, 5, 6]])
def test_classes_that_are_not_those_of_the_outputs(client, net, folder, classes):
    odd = with_images(net.subject(PLANS["a"]).artifact)
    odd.header["task"]["classes"] = classes  # type: ignore[index]
    (folder / "odd.safetensors").write_bytes(to_bytes(odd))
    answer = client.put("/tasks/odd", json={"path": "odd.safetensors"})
    assert (answer.status_code, "must name the classes" in answer.json()["detail"]) == (422, True)


def test_too_many_examples(client):
    answer = client.post("/predict/a", json={"inputs": numbers(9)})
    assert answer.status_code == 422
    assert answer.json()["detail"] == "A request has at most 8 examples, got 9."


def test_a_body_of_unknown_length_is_cut_off(client):
    def parts() -> Iterator[bytes]:
        for _ in range(100):
            yield b" " * 10_000

    answer = client.post("/predict/a", content=parts())
    assert answer.status_code == 413


def test_a_token_is_asked_for(service):
    with local_client(make_app(service, "secret")) as client:
        asked = {"json": {"inputs": numbers(1)}}
        assert client.get("/health").status_code == 200
        for call in (
            lambda **h: client.post("/predict/a", **asked, **h),
            lambda **h: client.get("/tasks", **h),
            lambda **h: client.get("/metrics", **h),
            lambda **h: client.delete("/tasks/none", **h),
        ):
            assert call().status_code == 401
            assert call(headers={"authorization": "Bearer secre"}).status_code == 401
            assert call(headers={"authorization": "Bearer secret"}).status_code in (200, 404)


def test_metrics_count_requests_and_examples(client):
    client.post("/predict/a", json={"inputs": numbers(2)})
    client.post("/predict/nothing", json={"inputs": numbers(2)})
    text = client.get("/metrics").text
    assert 'autotune_requests_total{status="200",task="a"} 1.0' in text
    assert 'autotune_requests_total{status="404",task="unknown"} 1.0' in text
    assert "autotune_batch_examples_sum 2.0" in text
    assert "autotune_tasks 1.0" in text


def test_no_folder_no_adding(net, artifacts):
    service = Service(net.backbone)
    with local_client(make_app(service)) as client:
        answer = client.put("/tasks/b", json={"path": "b.safetensors"})
        assert "Start the server with --folder" in answer.json()["detail"]
        assert client.get("/tasks").json() == []
        assert client.post("/predict", json={"inputs": numbers(1)}).status_code == 422


def test_tasks_with_other_inputs_are_asked_one_by_one(net, artifacts):
    service = Service(net.backbone)
    service.put("a", "a", artifacts["a"])
    plain = net.subject(PLANS["b"]).artifact
    service.put("b", "b", plain)
    with local_client(make_app(service)) as client:
        detail = client.post("/predict", json={"inputs": numbers(1)}).json()["detail"]
        assert "needs one kind of input, the tasks have 2" in detail
        assert client.post("/predict/b", json={"inputs": numbers(1)}).status_code == 200


def test_more_than_may_wait_is_refused_and_all_others_are_answered(net, artifacts):
    service = Service(net.backbone, Limits(waiting=2, examples=1))
    service.put("a", "a", artifacts["a"])
    gate = threading.Event()
    compute = service.batches.compute
    service.batches.compute = lambda asks: (gate.wait(10), compute(asks))[1]
    with local_client(make_app(service)) as client:
        statuses: list[int] = []

        def ask() -> None:
            answer = client.post("/predict/a", json={"inputs": numbers(1)})
            statuses.append(answer.status_code)

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        while statuses.count(503) < 4:  # two requests are in progress, the other six are refused
            gate.wait(0.01)
        gate.set()
        for thread in threads:
            thread.join()
    assert sorted(set(statuses)) == [200, 503]


def test_json_says_what_a_task_is(client, artifacts):
    (task,) = client.get("/tasks").json()
    assert task["classes"] == list("01234")
    assert task["plan"] == "layer3.1=lowrank-2"
    assert json.loads(json.dumps(task["input"])) == json.loads(json.dumps(IMAGE.to_json()))
