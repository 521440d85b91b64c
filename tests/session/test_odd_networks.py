"""Searches on networks in half and double precision, with odd parameters, modules and outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import autotune
from autotune.deltas.artifact import Artifact, from_bytes
from autotune.problem.job import Job
from autotune.problem.plan import Choice, Plan

# a user's own call of a re-entrant checkpoint warns if its input needs no gradient
pytestmark = pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")

GENERATOR = torch.Generator().manual_seed(0)
ROWS = torch.randn(96, 8, generator=GENERATOR)
TOKENS = torch.randint(0, 12, (96, 6), generator=GENERATOR)
LABELS = ROWS[:, :3].argmax(1)
HALF = [torch.float16, torch.bfloat16]
RATES = {"lr:head": 0.03, "lr:lowrank": 0.03, "lr:subtune": 0.03, "lr:sparse": 0.1, "lr:side": 0.01}
WEIGHTS = Plan({"body.0": Choice.of("lowrank", rank=2), "body.2": Choice.of("sparse", k=20)})
ALL = Plan({"body.0": Choice.of("subtune", what="all"), "body.2": Choice.of("lowrank", rank=1)})
PATH = Plan({"network": Choice.of("side", width=2)})


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU())
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.body(x))


class Checkpointed(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(checkpoint(self.body, x, use_reentrant=True))


class Words(Plain):
    """An embedding with sparse gradients, and a re-entrant checkpoint after it."""

    def __init__(self, layer: type[nn.Module] = nn.Embedding) -> None:
        super().__init__()
        self.words = layer(12, 8, sparse=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.words(x)
        h = h.mean(1) if h.ndim > 2 else h
        return self.head(checkpoint(self.body, h, use_reentrant=True))


class Odd(Plain):
    """Integer, boolean and complex parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = nn.Parameter(torch.zeros(1, dtype=torch.int64), requires_grad=False)
        self.mask = nn.Parameter(torch.ones(8, dtype=torch.bool), requires_grad=False)
        self.phase = nn.Parameter(torch.ones(8, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        turned = torch.fft.ifft(torch.fft.fft(x * self.mask) * self.phase).real
        return super().forward(turned) + self.steps.sum()


@dataclass
class Answer:
    logits: Tensor
    features: Tensor


class Answering(Plain):
    def forward(self, x: Tensor) -> Answer:
        h = self.body(x)
        return Answer(self.head(h), h)


class InDict(Plain):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = self.body(x)
        return {"features": h, "logits": self.head(h)}


def made(make: Callable[[], nn.Module], dtype: torch.dtype = torch.float32) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = make().eval()
        return network if dtype == torch.float32 else network.to(dtype)


def trained(network: nn.Module, plan: Plan, inputs: Tensor = ROWS) -> tuple[Any, Artifact, Any]:
    """(last progress, delta file, metrics of the delta file on the validation part)."""
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    setup = autotune.prepare(
        network, (inputs, LABELS), budget="100%", epochs=3, device="cpu", strategy="random"
    )
    try:
        *_, last = setup.engine(Job("job", plan, RATES, 0))
        measured = setup.engine.measure(last.artifact, setup.task.val)
    finally:
        setup.engine.close()
    assert all(torch.equal(t, before[name]) for name, t in network.state_dict().items())
    return last, from_bytes(last.artifact, "x"), measured


def delta_file(network: nn.Module, plan: Plan, folder: Path) -> Path:
    last, _, _ = trained(network, plan)
    file = folder / "delta.safetensors"
    file.write_bytes(last.artifact)
    return file


@pytest.mark.parametrize("dtype", [*HALF, torch.float64])
@pytest.mark.parametrize("plan", [WEIGHTS, ALL, PATH], ids=["weights", "all", "path"])
def test_a_delta_file_of_another_precision_gives_the_value_that_training_saw(dtype, plan):
    last, artifact, measured = trained(made(Plain, dtype), plan)
    assert measured["loss"] == last.metrics["loss"]
    floats = {t.dtype for t in artifact.tensors.values() if t.is_floating_point()}
    assert floats == {torch.float64 if dtype == torch.float64 else torch.float32}
    assert artifact.header["input"]["dtype"] == str(dtype).removeprefix("torch.")


@pytest.mark.parametrize("dtype", [*HALF, torch.float64])
def test_a_loaded_delta_keeps_the_users_dtype_and_merges_into_it(dtype):
    network = made(Plain, dtype)
    _, artifact, _ = trained(network, ALL)
    x = ROWS[:5].to(dtype)
    expected = autotune.load_adapted(network, artifact)(x)
    assert expected.dtype == dtype
    assert autotune.merge(network) == 0
    assert torch.equal(network(x), expected)
    assert {p.dtype for p in network.parameters()} == {dtype}
    assert list(network.state_dict()) == list(Plain().state_dict())


@pytest.mark.parametrize("dtype", [*HALF, torch.float64])
@pytest.mark.parametrize("format", ["delta", "merged", "module"])
def test_exports_have_the_outputs_and_dtypes_of_the_backbone(dtype, format, tmp_path):
    network = made(Plain, dtype)
    file = delta_file(network, ALL, tmp_path)
    suffix = ".pt2" if format == "module" else ".safetensors"
    export = autotune.export_model(file, format, tmp_path / f"out{suffix}", backbone=network)
    assert export.difference == 0
    if format == "merged":
        tensors = load_file(export.path)
        assert {name: t.dtype for name, t in tensors.items()} == dict.fromkeys(tensors, dtype)
        assert list(tensors) == sorted(Plain().state_dict())


def test_integer_and_complex_parameters_are_frozen_and_part_of_the_whole():
    network = made(Odd)
    setup = autotune.prepare(network, (ROWS, LABELS), budget="50%", epochs=1, device="cpu")
    names = {name for unit in setup.units for name in unit.parameters}
    setup.engine.close()
    assert names.isdisjoint({"steps", "mask", "phase"})
    body = sum(p.numel() for p in network.body.parameters())
    assert setup.problem.budget.total == body + 1 + 8 + 8


@pytest.mark.parametrize("plan", [WEIGHTS, ALL, PATH], ids=["weights", "all", "path"])
@pytest.mark.parametrize("make", [Odd, Checkpointed, Answering, InDict])
def test_a_job_on_an_odd_network_trains_and_its_file_gives_the_same_value(make, plan):
    network = made(make)
    last, artifact, measured = trained(network, plan)
    assert measured["loss"] == pytest.approx(last.metrics["loss"], rel=1e-5)
    expected = type(network(ROWS[:2]))
    assert type(autotune.load_adapted(network, artifact)(ROWS[:2])) is expected


@pytest.mark.parametrize("layer", [nn.Embedding, nn.EmbeddingBag])
@pytest.mark.parametrize("method", [Choice.of("sparse", k=9), Choice.of("subtune", what="all")])
def test_an_embedding_with_sparse_gradients_trains_with_dense_ones(layer, method):
    network = made(lambda: Words(layer))
    last, artifact, measured = trained(network, Plan({"words": method}), TOKENS)
    assert measured["loss"] == pytest.approx(last.metrics["loss"], rel=1e-5)
    assert network.words.sparse
    autotune.detach(autotune.load_adapted(network, artifact))
    assert network.words.sparse


@pytest.mark.parametrize("make", [Answering, InDict])
@pytest.mark.parametrize("format", ["delta", "merged", "module"])
def test_exports_of_networks_that_return_objects_have_their_logits(make, format, tmp_path):
    network = made(make)
    file = delta_file(network, WEIGHTS, tmp_path)
    suffix = ".pt2" if format == "module" else ".safetensors"
    export = autotune.export_model(file, format, tmp_path / f"out{suffix}", backbone=network)
    assert export.difference < 1e-5


def test_several_tasks_on_a_network_that_returns_objects_give_logits():
    network = made(Answering)
    _, artifact, _ = trained(network, WEIGHTS)
    logits = autotune.MultiTask(network, {"first": artifact, "second": artifact})(ROWS[:4])
    assert logits["first"].shape == (4, 3)
    with autotune.adapted(network, artifact) as tuned:
        assert torch.equal(logits["second"], tuned(ROWS[:4]).logits)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["random", "policy"])
@pytest.mark.parametrize(
    ("make", "dtype"),
    [
        *((Plain, torch.bfloat16), (Plain, torch.float64), (Odd, torch.float32)),
        *((Checkpointed, torch.float32), (InDict, torch.float32)),
    ],
)
def test_no_trial_of_a_search_fails(make, dtype, strategy, tmp_path):
    study = autotune.search(
        made(make, dtype),
        (ROWS, LABELS),
        budget="50%",
        strategy=strategy,
        trials=4,
        epochs=2,
        device="cpu",
        out=str(tmp_path / "run"),
    )
    assert [trial.error for trial in study.trials if trial.error] == []
