"""The engine: what it tells of a job, and that the network is its own again afterwards."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from autotune.backbones.base import describe
from autotune.backbones.inputs import InputDescription
from autotune.deltas.artifact import from_bytes
from autotune.errors import OutOfMemory, TrialError
from autotune.problem.job import Job, Progress
from autotune.problem.plan import Choice, Plan
from autotune.tasks.part import Part
from autotune.training.checkpoint import read_header

PLAN = Plan({"first": Choice.of("lowrank", rank=2), "second": Choice.of("subtune", what="all")})
RATES = {"lr:head": 0.01, "lr:lowrank": 0.01, "lr:subtune": 0.01, "weight_decay": 0.1}


def job(plan: Plan = PLAN, **options) -> Job:
    return Job("trial 0", plan, RATES, **{"seed": 0, "number": 0, **options})


def state(network: nn.Module) -> list:
    tensors = {name: t.clone() for name, t in network.state_dict().items()}
    named = [(n, id(p), p.requires_grad) for n, p in network.named_parameters()]
    return [tensors, named, [(n, id(m), type(m), m.training) for n, m in network.named_modules()]]


def same(first: list, second: list) -> bool:
    pairs = zip(first[0].items(), second[0].items(), strict=True)
    return first[1:] == second[1:] and all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def bare(progress: Progress) -> list:
    """All that a progress tells, tensors as bytes; a file's header has its keys in any order."""
    files = [load(content) for content in (progress.checkpoint, progress.artifact) if content]
    bits = [{name: t.numpy().tobytes() for name, t in tensors.items()} for tensors in files]
    return [progress.step, progress.value, dict(progress.metrics), bits]


def test_a_job_reports_every_epoch_and_delivers_with_the_last(make_engine):
    reports = list(make_engine()(job()))
    assert [p.step for p in reports] == [1, 2, 3]
    assert all(p.value == p.metrics["accuracy"] and p.checkpoint for p in reports)
    assert [p.artifact is None for p in reports] == [True, True, False]


def test_equal_jobs_give_equal_bits_whatever_ran_before(make_engine):
    engine = make_engine()
    first = [bare(p) for p in engine(job())]
    list(engine(job(Plan({"conv": Choice.of("subtune", what="all")}), seed=5)))
    torch.rand(3)
    assert [bare(p) for p in engine(job())] == first
    assert [bare(p) for p in engine(job(seed=1))] != first


@pytest.mark.parametrize("plan", [PLAN, Plan({})], ids=["deltas", "probe"])
@pytest.mark.parametrize("after", [1, 2, 3])
def test_resuming_after_any_epoch_gives_equal_bits(make_engine, plan, after):
    whole = list(make_engine()(job(plan)))
    resumed = list(make_engine()(job(plan, checkpoint=whole[after - 1].checkpoint)))
    assert [bare(p) for p in resumed] == [bare(p) for p in whole[after - 1 :]]


class Small:
    """A layer with memory for so many examples, however they come."""

    def __init__(self, layer: nn.Module, room: int, error: Exception) -> None:
        self.room, self.error, self.most = room, error, 0
        self.handle = layer.register_forward_pre_hook(self._look)

    def _look(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if len(inputs[0]) > self.room:
            raise self.error
        self.most = max(self.most, len(inputs[0]))


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory."), MemoryError()], ids=["gpu", "host"]
)
@pytest.mark.parametrize(("room", "parts"), [(16, 2), pytest.param(8, 4, marks=pytest.mark.slow)])
def test_a_batch_that_does_not_fit_is_trained_in_parts(
    make_engine, tiny_network, error, room, parts
):
    """The same step, but for rounding: evaluation takes twice a batch, so room 16 is a half."""
    plan = Plan({"conv": Choice.of("subtune", what="all")})  # no dropout, which draws by batch
    whole = list(make_engine()(job(plan)))
    engine, small = make_engine(), Small(tiny_network.conv, room, error)
    reports = list(engine(job(plan)))
    small.handle.remove()
    assert [p.step for p in reports] == [1, 2, 3]
    assert {p.parts for p in reports} == {parts}
    assert small.most == room
    losses = [[p.metrics["train_loss"] for p in of] for of in (reports, whole)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_memory_that_ends_later_resumes_from_the_last_epoch(make_engine, tiny_network):
    small = Small(tiny_network.first.conv, 1000, torch.OutOfMemoryError("CUDA out of memory."))
    engine, reports = make_engine(), []
    running = engine(job())
    reports.append(next(running))
    small.room = 16
    reports += running
    small.handle.remove()
    assert [(p.step, p.parts) for p in reports] == [(1, 1), (1, 2), (2, 2), (3, 2)]


def test_what_does_not_fit_in_parts_either_is_out_of_memory(make_engine, tiny_network):
    before, small = state(tiny_network), Small(tiny_network.first.conv, 1, MemoryError())
    with pytest.raises(OutOfMemory, match=r"trial 0 .* a step on 4 examples must fit"):
        list(make_engine()(job()))
    small.handle.remove()
    assert same(state(tiny_network), before)


def test_another_error_is_not_taken_for_memory(make_engine, tiny_network):
    small = Small(tiny_network.first.conv, 1, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        list(make_engine()(job()))
    small.handle.remove()


def test_a_checkpoint_of_other_tensors_is_refused(make_engine, tiny_network):
    """What takes gradients is part of a checkpoint, and compared."""
    first, *_ = make_engine()(job())
    tensors, header = load(first.checkpoint), read_header(first.checkpoint)
    header["progress"]["trained"]["network"].append("conv.weight")
    changed = save(tensors, {key: json.dumps(value) for key, value in header.items()})
    with pytest.raises(TrialError, match="resume with the tensors that trained before"):
        list(make_engine()(job(checkpoint=changed)))


def test_a_job_that_is_left_early_leaves_the_network_alone(make_engine, tiny_network):
    before = state(tiny_network)
    running = make_engine()(job())
    next(running)
    assert not same(state(tiny_network), before)
    running.close()
    assert same(state(tiny_network), before)


def test_frozen_units_keep_every_bit_while_a_job_runs(make_engine, tiny_network):
    before = {name: t.clone() for name, t in tiny_network.state_dict().items()}
    plan = Plan({"second": Choice.of("subtune", what="all")})
    for _ in make_engine()(job(plan)):
        now = tiny_network.state_dict()
        changed = {name for name, t in now.items() if not torch.equal(t, before[name])}
        kept = {"second.conv.weight", "second.conv.bias", "second.norm.weight", "second.norm.bias"}
        assert changed == kept | {"fc.weight", "fc.bias"}


def test_predicted_cost_is_what_the_file_holds(make_engine):
    *_, last = make_engine()(job())
    artifact = from_bytes(last.artifact, "test")
    stored = artifact.part("delta").values()
    assert artifact.header["cost"] == {
        "parameters": 2 * (4 + 36) + 4 * 36 + 4 + 8,
        "stored": sum(t.numel() for t in stored),
        "bytes": sum(t.numel() * 4 for t in stored),
    }


def test_preparing_changes_the_statistics_and_closing_restores_them(make_engine, tiny_network):
    before = state(tiny_network)
    engine = make_engine()
    statistics = engine.statistics()
    assert same(state(tiny_network), before)
    engine.prepare(statistics)
    assert torch.equal(tiny_network.norm.running_mean, statistics["norm.running_mean"])
    list(engine(job()))
    engine.close()
    assert same(state(tiny_network), before)


def test_prepared_again_starts_from_the_originals(make_engine, tiny_network):
    before = state(tiny_network)
    engine = make_engine()
    engine.prepare({"norm.running_mean": torch.ones(4)})
    engine.prepare({"norm.running_var": torch.ones(4)})
    assert torch.equal(tiny_network.norm.running_mean, before[0]["norm.running_mean"])
    engine.prepare({})
    assert same(state(tiny_network), before)


def test_prepared_buffers_travel_in_the_file(make_engine, tiny_network, tiny_task):
    engine = make_engine()
    statistics = engine.statistics()
    engine.prepare(statistics)
    *_, last = engine(job())
    stored = from_bytes(last.artifact, "test").part("buffer")
    assert all(torch.equal(stored[name], t) for name, t in statistics.items())
    assert engine.measure(last.artifact, tiny_task.val)["loss"] == last.metrics["loss"]
    engine.close()
    assert engine.measure(last.artifact, tiny_task.val)["loss"] == last.metrics["loss"]


def test_the_test_part_is_measured_with_its_size(make_engine, tiny_network, tiny_task):
    engine = make_engine()
    *_, last = engine(job())
    before = state(tiny_network)
    metrics = engine.test(last.artifact)
    assert metrics["n"] == len(tiny_task.test)
    assert set(metrics) == {"n", "loss", "accuracy"}
    assert same(state(tiny_network), before)


# failures


def test_a_failure_names_trial_and_plan_and_leaves_the_network_alone(make_engine, tiny_network):
    before = state(tiny_network)
    burst = Job("trial 7", PLAN, {**RATES, "lr:head": 1e30}, seed=0, number=7)
    with pytest.raises(TrialError) as caught:
        list(make_engine()(burst))
    assert str(caught.value).startswith("trial 7 (first=lowrank-2, second=subtune-all): A trial m")
    assert same(state(tiny_network), before)


def test_a_unit_that_the_network_never_uses_fails_its_trial(make_engine, tiny_network):
    tiny_network.add_module("spare", nn.Linear(3, 3))
    tiny_network.fc = tiny_network._modules.pop("fc")
    engine = make_engine(backbone=describe(tiny_network, source="x", family="any"))
    with pytest.raises(TrialError, match=r"one of spare subtune with shape \(3, 3\) got none"):
        list(engine(job(Plan({"spare": Choice.of("subtune", what="all")}))))


# the linear probe, on cached features


class Counter:
    """Counts the images that a layer has seen."""

    def __init__(self, layer: nn.Module) -> None:
        self.seen = 0
        layer.register_forward_pre_hook(self._count)

    def _count(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.seen += len(inputs[0])


@pytest.fixture
def mirrored(tiny_task):
    """A task whose images are their own mirror images, so that flips change nothing."""

    def mirror(part: Part) -> Part:
        return Part(part.inputs + part.inputs.flip(-1), part.labels)

    parts = {name: mirror(getattr(tiny_task, name)) for name in ("train", "val", "test")}
    return replace(tiny_task, **parts)


def test_the_cached_probe_equals_the_uncached_one(make_engine, mirrored):
    cached = list(make_engine(task=mirrored, epochs=5)(job(Plan({}))))
    whole = list(make_engine(task=mirrored, epochs=5, augment="flip")(job(Plan({}))))
    for one, other in zip(cached, whole, strict=True):
        assert one.metrics["loss"] == pytest.approx(other.metrics["loss"], rel=1e-4)
    heads = [from_bytes(reports[-1].artifact, "test").part("head") for reports in (cached, whole)]
    torch.testing.assert_close(heads[0], heads[1], rtol=1e-4, atol=1e-5)


def test_the_probe_sees_every_image_once(make_engine, tiny_network, tiny_task):
    counter, engine = Counter(tiny_network.conv), make_engine(epochs=9)
    list(engine(job(Plan({}))))
    first = counter.seen
    list(engine(job(Plan({}), seed=1)))
    batches = [math.ceil(len(p) / 16) for p in (tiny_task.train, tiny_task.val)]
    # The last batch is filled; a few examples are for tracing, modes and the check of rows.
    assert first <= 16 * sum(batches) + 48
    assert counter.seen == first


def test_the_probe_sees_the_images_again_after_a_preparation(make_engine):
    engine = make_engine()
    *_, before = engine(job(Plan({})))
    engine.prepare(engine.statistics())
    *_, prepared = engine(job(Plan({})))
    assert prepared.metrics["loss"] != before.metrics["loss"]


@pytest.mark.parametrize("kind", ["behind", "keyword", "twice"])
def test_a_head_that_is_not_the_end_is_trained_uncached(make_engine, tiny_network, kind):
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.fc = tiny_network, nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.body(x)
            if kind == "behind":
                return self.fc(y) * 2
            return self.fc(input=y) if kind == "keyword" else self.fc(self.fc(y))

    engine = make_engine(backbone=describe(Odd(), source="x", family="any"))
    *_, last = engine(job(Plan({})))
    artifact = from_bytes(last.artifact, "test")
    assert engine.measure(last.artifact, engine.task.val)["loss"] == last.metrics["loss"]
    assert set(artifact.part("head")) == {"weight", "bias"}


def test_a_convolution_may_be_the_head(make_engine, tiny_task):
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 9, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    engine = make_engine(backbone=describe(network, source="x", family="any"))
    *_, last = engine(job(Plan({"0": Choice.of("lowrank", rank=1)})))
    assert from_bytes(last.artifact, "test").part("head")["weight"].shape == (3, 4, 1, 1)


# folds


def test_with_folds_a_value_is_the_mean_and_the_whole_is_delivered(make_engine, tiny_task):
    engine = make_engine(folds=3)
    reports = list(engine(job()))
    values = [value * n for n, value in enumerate((p.value for p in reports), 1)]
    singles = [values[0], values[1] - values[0], values[2] - values[1]]
    assert [p.step for p in reports] == [1, 2, 3]
    assert all(0 <= single <= 1 for single in singles)
    assert all(p.artifact is None for p in reports)
    *_, whole = engine(job(whole=True))
    assert whole.artifact is not None
    assert len(engine.both) == len(tiny_task.train) + len(tiny_task.val)


@pytest.mark.parametrize("after", [1, 2, 3])
def test_resuming_after_any_fold_gives_equal_values(make_engine, after):
    whole = list(make_engine(folds=3)(job()))
    resumed = list(make_engine(folds=3)(job(checkpoint=whole[after - 1].checkpoint)))
    assert [bare(p) for p in resumed] == [bare(p) for p in whole[after - 1 :]]


def test_with_folds_no_epoch_builds_a_checkpoint_and_no_fold_a_delta_file(make_engine, monkeypatch):
    def refuse(*_: object) -> bytes:
        raise AssertionError("nobody reads it")

    engine = make_engine(folds=3)
    monkeypatch.setattr("autotune.training.engine.to_checkpoint", refuse)
    monkeypatch.setattr("autotune.training.engine.to_bytes", refuse)
    assert [p.step for p in engine(job())] == [1, 2, 3]


# inputs and heads


@pytest.mark.parametrize("augment", ["none", "crop+flip"])
def test_uint8_images_stay_bytes_and_give_the_values_of_normalised_ones(
    tiny_task, make_engine, tiny_network, augment
):
    def raw(part: Part) -> Part:
        return Part((part.inputs * 20 + 100).clamp(0, 255).byte(), part.labels)

    input = InputDescription(size=(6, 6), channels=1, mean=(0.4,), std=(0.1,))
    parts = {name: raw(getattr(tiny_task, name)) for name in ("train", "val", "test")}
    backbone = describe(tiny_network, source="x", family="any", input=input)
    raw_task = make_engine(backbone=backbone, task=replace(tiny_task, **parts), augment=augment)
    assert raw_task.task.train.inputs.dtype == torch.uint8
    normal = {k: Part(input.normalise(p.inputs), p.labels) for k, p in parts.items()}
    same_task = make_engine(task=replace(tiny_task, **normal), augment=augment)
    assert [bare(p)[:3] for p in raw_task(job())] == [bare(p)[:3] for p in same_task(job())]


def test_a_kept_head_starts_from_the_backbones_own(make_engine, tiny_network):
    engine = make_engine(epochs=1)
    engine.keep_head = True
    weight = tiny_network.fc.weight.detach().clone()
    still = Job("trial 0", Plan({}), {**RATES, "lr:head": 1e-9}, seed=0)
    *_, last = engine(still)
    head = from_bytes(last.artifact, "test").part("head")
    torch.testing.assert_close(head["weight"], weight, rtol=0, atol=1e-6)
    assert torch.equal(tiny_network.fc.weight, weight)
