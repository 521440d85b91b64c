"""Methods that look at data or add paths, through the engine and the delta file."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load
from torch.nn import functional as F

import autotune
from autotune.backbones.base import describe
from autotune.backbones.dataflow import trace
from autotune.backbones.inputs import InputDescription
from autotune.backbones.spans import with_spans
from autotune.backbones.units import find_units
from autotune.deltas.artifact import from_bytes
from autotune.deltas.site import Site
from autotune.problem.job import Job, Progress
from autotune.problem.plan import Choice, Plan
from autotune.run.settings import load_space
from autotune.training.engine import Engine
from autotune.training.evidence import TaskEvidence
from autotune.training.loop import Recipe

INPUT = InputDescription(shape=(1, 6, 6))
PLANS = {
    "sparse": Plan({"first": Choice.of("sparse", k=9)}),
    "adapting": Plan({"second": Choice.of("subtune", what="norms", bn="adapt")}),
    "adapter": Plan({"first": Choice.of("res_adapter", width=2)}),
    "side": Plan({"network": Choice.of("side", width=3)}),
    "curriculum": Plan({"network": Choice.of("side", width=3, curriculum=20)}),
    "bypass": Plan({"network": Choice.of("bypass", width=2)}),
    "mixed": Plan(
        {"first": Choice.of("lowrank", rank=1), "network": Choice.of("side", width=2)},
    ),
}
TRAINED = "head sparse subtune res_adapter side bypass lowrank"


@pytest.fixture
def engine(tiny_network, tiny_task):
    backbone = describe(tiny_network, source="tiny", family="any", input=INPUT)
    tables = load_space("any").units
    units = find_units(backbone, "tree")
    units = with_spans(backbone, units, tables, trace(tiny_network, INPUT))
    recipe = Recipe(epochs=3, batch_size=16)
    engine = Engine(backbone, units, tiny_task, recipe, input=INPUT, seed=0)
    yield engine
    engine.close()


@pytest.fixture
def evidence(engine, tiny_network):
    return TaskEvidence(
        engine.backbone,
        engine.task.train,
        input=INPUT,
        device=torch.device("cpu"),
        fit_head=lambda: tiny_network.fc,
    )


def job(plan: Plan, **options) -> Job:
    rates = {f"lr:{name}": 0.01 for name in TRAINED.split()}
    return Job("trial 0", plan, rates, **{"seed": 0, "number": 0, **options})


def bits(progress: Progress) -> list:
    files = [load(content) for content in (progress.checkpoint, progress.artifact) if content]
    return [{name: t.numpy().tobytes() for name, t in tensors.items()} for tensors in files]


@pytest.mark.parametrize("name", PLANS)
def test_a_resumed_job_gives_the_bits_of_an_uninterrupted_one(engine, name):
    whole = list(engine(job(PLANS[name])))
    resumed = list(engine(job(PLANS[name], checkpoint=whole[0].checkpoint)))
    assert [bits(p) for p in resumed] == [bits(p) for p in whole]
    assert [p.value for p in resumed] == [p.value for p in whole]


@pytest.mark.parametrize("name", PLANS)
def test_its_file_rebuilds_the_tuned_network_and_comes_off_again(engine, name, tmp_path):
    *_, last = engine(job(PLANS[name]))
    again = engine.measure(last.artifact, engine.task.val)  # in other batches, and as a whole
    assert again["loss"] == pytest.approx(last.metrics["loss"], rel=1e-5)
    engine.close()
    network, x = engine.backbone.network.eval(), engine.task.val.inputs
    before = network(x)
    (tmp_path / "delta.safetensors").write_bytes(last.artifact)
    tuned = autotune.load_adapted(network, tmp_path / "delta.safetensors")
    assert not torch.equal(tuned(x), before)
    autotune.detach(tuned)
    assert torch.equal(network(x), before)


@pytest.mark.parametrize("name", PLANS)
def test_its_cost_is_what_the_file_holds(engine, name):
    *_, last = engine(job(PLANS[name]))
    artifact = from_bytes(last.artifact, "test")
    stored = artifact.part("delta").values()
    assert artifact.header["cost"]["stored"] == sum(t.numel() for t in stored)
    assert artifact.header["cost"]["bytes"] == sum(t.numel() * t.element_size() for t in stored)


def test_two_tasks_deltas_on_one_backbone_do_not_disturb_each_other(engine):
    first, second = ([*engine(job(PLANS[name]))][-1] for name in ("side", "bypass"))
    alone = engine.measure(first.artifact, engine.task.val)
    engine.measure(second.artifact, engine.task.val)
    assert engine.measure(first.artifact, engine.task.val) == alone


def test_fisher_is_the_mean_square_of_single_examples_gradients(engine, evidence, tiny_network):
    scores = evidence.scores("fisher")["first.conv.weight"]
    weight, total = tiny_network.eval().first.conv.weight, 0.0
    for x, y in zip(
        engine.task.train.inputs, torch.from_numpy(engine.task.train.labels), strict=True
    ):
        loss = F.cross_entropy(tiny_network(x[None]), y[None])
        total = total + torch.autograd.grad(loss, weight)[0].square()
    torch.testing.assert_close(scores, total / len(engine.task.train))


def test_gradient_scores_are_the_size_of_the_mean_gradient(engine, evidence, tiny_network):
    scores = evidence.scores("gradient")["first.conv.weight"]
    labels = torch.from_numpy(engine.task.train.labels)
    loss = F.cross_entropy(tiny_network.eval()(engine.task.train.inputs), labels)
    gradient = torch.autograd.grad(loss, tiny_network.first.conv.weight)[0]
    torch.testing.assert_close(scores, gradient.abs(), rtol=1e-3, atol=1e-5)


def test_scoring_leaves_flags_modes_and_gradients_alone(evidence, tiny_network):
    tiny_network.train()
    tiny_network.first.requires_grad_(False)
    before = [(p.requires_grad, p.grad) for p in tiny_network.parameters()]
    evidence.scores("fisher")
    assert [(p.requires_grad, p.grad) for p in tiny_network.parameters()] == before
    assert all(module.training for module in tiny_network.modules())


def test_what_passes_through_a_site_is_what_the_frozen_network_computes(engine, evidence):
    units, network = engine.units, engine.backbone.network
    site = Site.of(network, units["first"], units.flow)
    taken, received = evidence.passing(site)
    assert len(taken) == len(engine.task.train)
    torch.testing.assert_close(network.first.eval()(taken).detach(), received)
    assert evidence.passing(site)[0] is taken, "found once"


def test_scores_are_found_once_for_all_trials_and_again_after_a_preparation(engine):
    sparse = PLANS["sparse"]
    first = [bits(p) for p in engine(job(sparse))]
    collected = dict(engine._evidence)
    assert [bits(p) for p in engine(job(sparse))] == first
    assert engine._evidence == collected
    engine.prepare(engine.statistics())
    assert engine._evidence == {}


def test_folds_look_at_their_own_training_part_alone(engine):
    folded = Engine(
        engine.backbone, engine.units, engine.task, engine.recipe, input=INPUT, folds=2, seed=0
    )
    list(folded(job(PLANS["sparse"])))
    looked_at = [part for part, _ in folded._evidence.values()]
    assert [id(part) for part in looked_at] == [id(train) for train, _ in folded.folds]
    folded.close()


def test_a_plan_without_such_methods_asks_for_no_evidence(engine):
    list(engine(job(replace(PLANS["mixed"], choices={"first": Choice.of("lowrank", rank=1)}))))
    assert all(not evidence._made for _, evidence in engine._evidence.values())
