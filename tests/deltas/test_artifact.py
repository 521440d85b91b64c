"""The delta file: all that is needed on the right backbone, nothing on another."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from autotune.backbones.base import Backbone, describe
from autotune.deltas.apply import tuned
from autotune.deltas.artifact import from_bytes, read_artifact, read_header, to_bytes
from autotune.errors import ArtifactError
from autotune.problem.job import Job
from autotune.problem.plan import Choice, Method, Plan

PLAN = Plan(
    {
        "conv": Choice.of("scale"),
        "first": Choice(
            (Method("subtune", (("what", "norms"),)), Method("lowrank", (("rank", 2),)))
        ),
        "second": Choice.of("subtune", what="all"),
    }
)
RATES = {f"lr:{name}": 0.01 for name in ("head", "scale", "subtune", "lowrank")}


@pytest.fixture
def content(make_engine) -> bytes:
    """A delta file of three units, with prepared statistics."""
    engine = make_engine(epochs=2)
    engine.prepare(engine.statistics())
    *_, last = engine(Job("trial 0", PLAN, RATES, seed=0, number=0))
    engine.close()
    return last.artifact


@pytest.fixture
def file(tmp_path, content):
    (tmp_path / "delta.safetensors").write_bytes(content)
    return tmp_path / "delta.safetensors"


def state(network: nn.Module) -> list:
    tensors = {name: t.clone() for name, t in network.state_dict().items()}
    named = [(n, id(p), p.requires_grad) for n, p in network.named_parameters()]
    return [tensors, named, [(n, id(m), type(m), m.training) for n, m in network.named_modules()]]


def same(first: list, second: list) -> bool:
    tensors = zip(first[0].items(), second[0].items(), strict=True)
    return first[1:] == second[1:] and all(
        a == b and torch.equal(x, y) for (a, x), (b, y) in tensors
    )


def test_a_file_round_trips(content):
    artifact = from_bytes(content, "test")
    again = from_bytes(to_bytes(artifact), "test")
    assert artifact.plan == again.plan == PLAN
    assert [unit.name for unit in artifact.units] == ["conv", "first", "second"]
    assert (again.units, again.fingerprint, again.header) == (
        artifact.units,
        artifact.fingerprint,
        artifact.header,
    )
    assert all(torch.equal(t, again.tensors[name]) for name, t in artifact.tensors.items())


def test_a_file_holds_deltas_head_and_prepared_buffers_alone(content, tiny_backbone):
    artifact = from_bytes(content, "test")
    delta, head, buffer = (artifact.part(kind) for kind in ("delta", "head", "buffer"))
    assert len(delta) + len(head) + len(buffer) == len(artifact.tensors)
    assert set(head) == {"weight", "bias"}
    assert {name.split("/")[0] for name in delta} == {"conv", "first", "second"}
    assert set(buffer) <= {name for name, _ in tiny_backbone.network.named_buffers()}
    stored = sum(t.numel() * t.element_size() for t in delta.values())
    assert artifact.header["cost"]["bytes"] == stored


def test_the_header_reads_without_a_backbone(file, tiny_backbone):
    header = read_header(file)
    assert header["fingerprint"] == tiny_backbone.fingerprint
    assert header["plan"] == json.loads(PLAN.to_json())
    assert header["tensors"]["head/weight"] == ["F32", 3, 4]
    assert header["task"] == {"source": "tiny", "classes": ["a", "b", "c"]}


def test_it_rebuilds_the_tuned_network(content, make_engine, tiny_task):
    engine = make_engine()
    metrics = engine.measure(content, tiny_task.val)
    value = from_bytes(content, "test").header["metrics"]["val"]
    assert {k: value[k] for k in ("accuracy", "loss")} == {
        k: metrics[k] for k in ("accuracy", "loss")
    }


def test_a_truncated_file_is_refused(content):
    for length in (0, 4, 8, 100, len(content) // 2, len(content) - 1):
        with pytest.raises(ArtifactError, match="must be what autotune wrote, test is not"):
            from_bytes(content[:length], "test")


def test_a_flipped_header_is_refused_or_read_but_never_crashes(content, tiny_network):
    backbone = describe(tiny_network, source="tiny", family="any")
    header, before = int.from_bytes(content[:8], "little"), state(tiny_network)
    draw, refused = torch.Generator().manual_seed(0), 0
    for _ in range(300):
        damaged = bytearray(content)
        at = int(torch.randint(8 + header, (), generator=draw))
        damaged[at] ^= 1 << int(torch.randint(8, (), generator=draw))
        try:
            with tuned(backbone, from_bytes(bytes(damaged), "test")):
                pass
        except ArtifactError:
            refused += 1
        assert same(state(tiny_network), before)
    assert refused > 150


@pytest.mark.parametrize("form", [0, 2, "1", None])
def test_another_format_is_refused(content, form):
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"]["format"] = json.dumps(form)
    text = json.dumps(header).encode()
    with pytest.raises(ArtifactError, match="format"):
        from_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :], "test")


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("delta/second/subtune/conv.weight", None),
        ("delta/second/subtune/second.conv.weight", None),
        ("delta/second/subtune/second.conv.weight", torch.zeros(2)),
        ("delta/third/scale/gain", torch.zeros(2)),
        ("head/weight", None),
        ("head/weight", torch.zeros(3, 5)),
        ("head/weight", torch.zeros(())),
        ("buffer/norm.running_mean", torch.zeros(5)),
        ("buffer/nowhere", torch.zeros(5)),
    ],
)
def test_tensors_that_do_not_fit_the_plan_are_refused(content, tiny_network, name, tensor):
    artifact = from_bytes(content, "test")
    tensors = {k: t for k, t in artifact.tensors.items() if k != name}
    if len(tensors) == len(artifact.tensors) and tensor is None:
        tensor = torch.zeros(1)
    if tensor is not None:
        tensors[name] = tensor
    backbone, before = describe(tiny_network, source="x", family="any"), state(tiny_network)
    damaged = replace(artifact, tensors=tensors)
    with pytest.raises(ArtifactError, match="do not fit its own plan"), tuned(backbone, damaged):
        pass
    assert same(state(tiny_network), before)


@pytest.mark.parametrize(
    "choice",
    [
        Choice.of("lowrank", rank="x"),
        Choice.of("scale", gain=1),
        Choice.of("subtune", what="heads"),
        Choice.of("nothing"),
    ],
)
def test_a_plan_that_no_method_takes_is_refused(content, tiny_backbone: Backbone, choice):
    artifact = from_bytes(content, "test")
    damaged = replace(artifact, plan=Plan({**PLAN.choices, "second": choice}))
    before = state(tiny_backbone.network)
    with pytest.raises(ArtifactError), tuned(tiny_backbone, damaged):
        pass
    assert same(state(tiny_backbone.network), before)


def test_a_file_that_is_not_there_or_foreign_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="must exist"):
        read_artifact(tmp_path / "delta.safetensors")
    (tmp_path / "delta.safetensors").write_bytes(b"\x80\x04K\x05.")
    for read in (read_artifact, read_header):
        with pytest.raises(ArtifactError):
            read(tmp_path / "delta.safetensors")
