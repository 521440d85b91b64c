"""Side-Tuning."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from autotune.backbones.dataflow import trace
from autotune.backbones.inputs import InputDescription
from autotune.backbones.units import Unit
from autotune.deltas.methods.side import Side
from autotune.deltas.seeding import seeded
from autotune.deltas.site import Site
from autotune.problem.plan import Choice
from autotune.training.evidence import TaskEvidence
from autotune.training.loop import Fit, Group, Recipe
from deltas.contract import SpanContract
from deltas.kinds import NETWORKS, SPANS, left
from deltas.rig import Looked, Rig, with_a_graph

LEARNED, CURRICULUM = Choice.of("side", width=2), Choice.of("side", width=2, curriculum=5)


class TestSide(SpanContract):
    CHOICES = (LEARNED, CURRICULUM)
    LEFT_ALONE: ClassVar = {
        choice.label: left("it takes token ids, which are no numbers", "words")
        for choice in CHOICES
    }
    TRIED_ON: ClassVar = {CURRICULUM.label: ("stage", "tokens", "words")}  # students are the same

    def test_starts_as_exactly_the_backbone(self, rig, choice):
        """With a curriculum; where the blend is learned it says why not, and when it would."""
        before = rig.outputs()
        side = rig.attach(choice).by_place["span", "side"]
        if choice is LEARNED:
            assert "exactly the base's" in side.not_zero
            assert not torch.equal(rig.outputs(), before)
            nn.init.constant_(side.path.alpha, 100.0)
        assert torch.equal(rig.outputs(), before)


@pytest.mark.parametrize("choice", [LEARNED, CURRICULUM])
@pytest.mark.parametrize("kind", [kind for kind in NETWORKS if kind != "words"])
def test_outside_the_network_no_graph_goes_through_the_backbone(kind, choice):
    rig = Rig(SPANS[kind])
    rig.attach(choice).train()
    assert with_a_graph(rig) == {"head", ""}


@pytest.mark.parametrize("kind", ["stage", "in-place-stage"])
def test_no_graph_goes_through_a_stage_or_what_comes_before(kind):
    rig = Rig(SPANS[kind])
    rig.attach(LEARNED).train()
    (stage,) = SPANS[kind].levels
    live = with_a_graph(rig)
    assert stage in live and not any(path.startswith(f"{stage}.") for path in live)
    assert "stem" not in live


def test_blends_base_and_side_by_equation_1():
    rig = Rig(SPANS["vectors"])
    x = rig.batch
    base = rig.network.second(rig.network.first(x).tanh())
    path = rig.attach(LEARNED).by_place["span", "side"].path
    nn.init.constant_(path.alpha, 0.7)
    share = torch.sigmoid(torch.tensor(0.7))
    blended = share * base + (1 - share) * path.student(x)
    head = rig.network.head
    expected = F.linear(blended, head.weight, head.bias).detach()
    torch.testing.assert_close(rig.outputs(), expected)


def test_the_curriculum_counts_training_steps_alone():
    rig = Rig(SPANS["stage"])
    deltas = rig.attach(CURRICULUM)
    path = deltas.by_place["span", "side"].path
    for steps in range(3):
        rig.outputs()
        with torch.inference_mode():
            rig.network(rig.batch)
            assert float(path.share()) == pytest.approx(5 / (5 + steps))
        rig.train(deltas, steps=1)
    assert deltas.tensors()["span/side/path.steps"] == 3


def test_a_loaded_curriculum_stands_still():
    rig = Rig(SPANS["stage"])
    deltas = rig.attach(CURRICULUM)
    rig.train(deltas)
    for parameter in deltas.parameters():
        parameter.requires_grad_(False)
    first = rig.network(rig.batch)
    assert torch.equal(rig.network(rig.batch), first)


def test_begins_as_a_student_of_the_base(tiny_backbone, tiny_task):
    network, input = tiny_backbone.network, InputDescription(shape=(1, 6, 6))
    stage = tuple(n for n, _ in network.named_parameters() if n.startswith(("first", "second")))
    site = Site.of(network, Unit("span", (), (stage,)), trace(network, input))
    cpu, part = torch.device("cpu"), tiny_task.train
    evidence = TaskEvidence(tiny_backbone, part, input=None, device=cpu, fit_head=nn.Identity)
    inputs, targets = evidence.passing(site)
    with seeded(0, "side"):
        untaught, taught = Side(4), Side(4)
        untaught.path = untaught.built(site)
        taught.start(site, evidence)
    distances = [F.mse_loss(side.path.student(inputs), targets) for side in (untaught, taught)]
    assert len(inputs) == len(part) and distances[1] < distances[0] / 3


def test_the_student_is_taught_once_for_all_trials():
    rig = Rig(SPANS["vectors"])
    looked, students = Looked(rig), []
    for choice, seed in ((LEARNED, 0), (CURRICULUM, 0), (LEARNED, 0), (LEARNED, 1)):
        deltas = rig.attach(choice, seed=seed, evidence=looked)
        path = deltas.by_place["span", "side"].path
        students.append([p.detach().clone() for p in path.student.parameters()])
        deltas.detach()
    assert len(looked.made) == 2
    assert all(map(torch.equal, students[0], students[1]))
    assert all(map(torch.equal, students[0], students[2]))
    assert not any(map(torch.equal, students[0], students[3]))


def test_looks_at_its_input_as_it_came_in():
    rig = Rig(SPANS["in-place-stage"])
    inputs, _ = Looked(rig).passing(rig.site)
    side, seen = rig.attach(LEARNED).by_place["span", "side"], []
    side.path.student.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    rig.outputs()
    assert inputs.min() < 0
    assert torch.equal(seen[0], inputs)


def test_the_blend_never_decays():
    rig = Rig(SPANS["vectors"])
    group = Group("span side", rig.attach(LEARNED).parameters(), 0.01)
    fit = Fit(rig.network, [group], Recipe(), seed=0, weight_decay=0.1)
    alpha = group.parameters[0]
    (alpha_group,) = (g for g in fit.optimizer.param_groups if any(p is alpha for p in g["params"]))
    assert alpha.shape == (1,) and alpha_group["weight_decay"] == 0
