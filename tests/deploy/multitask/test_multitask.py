"""Several tasks on one backbone: each gives its own outputs, and common computation runs once."""

from __future__ import annotations

import copy
import gc
import weakref
from dataclasses import replace

import pytest
import torch
from torch import nn

from autotune.backbones.base import describe
from autotune.backbones.dataflow import trace
from autotune.backbones.inputs import InputDescription
from autotune.backbones.units import Unit, Units
from autotune.deltas.loading import load_adapted
from autotune.deploy.export.base import Subject
from autotune.deploy.multitask.model import MultiTask
from autotune.deploy.multitask.program import Program
from autotune.errors import ArtifactError, AutotuneError
from autotune.problem.plan import Choice, Plan
from deploy.export.subjects import CLASSES, Net, random_artifact

LAST = Choice.of("lowrank", rank=2)


@pytest.fixture(
    scope="module", params=["digits", pytest.param("resnet18", marks=pytest.mark.slow), "vit"]
)
def net(request) -> Net:
    return Net(request.param)


@pytest.fixture(scope="module")
def digits() -> Net:
    return Net("digits")


def subjects(net: Net) -> dict[str, Subject]:
    """Plans that cover every method, each with original and with prepared statistics."""
    return {
        f"{at} {prepared}": net.subject(plan, prepared=prepared)
        for at, plan in enumerate(net.plans())
        for prepared in (False, True)
    }


def test_each_task_answers_as_its_own_network_does(net):
    by_name = subjects(net)
    multi = MultiTask(net.backbone, {name: s.artifact for name, s in by_name.items()})
    assert all(task.graph for task in multi._tasks.values())
    answers = multi(next(iter(by_name.values())).inputs())
    for name, subject in by_name.items():
        assert torch.equal(answers[name], subject.outputs()), name
    assert multi.tasks[name] == tuple(map(str, range(CLASSES)))


def test_a_task_for_each_example(net):
    by_name = subjects(net)
    names = list(by_name)
    multi = MultiTask(net.backbone, {name: s.artifact for name, s in by_name.items()})
    inputs = torch.cat([by_name[names[0]].inputs()] * 3)
    asked = [names[at] for at in (3, 1, 0, 1, 5, 5, 5, 2, 3, 0, 4, 1)]
    answers, whole = multi.by_row(inputs, asked), multi(inputs)
    for at, (name, row) in enumerate(zip(asked, answers, strict=True)):
        expected = whole[name][at]
        torch.testing.assert_close(
            row, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max())
        )


def test_every_example_needs_a_task_of_its_own(digits):
    subject = digits.subject(Plan({"layer3.1": LAST}))
    multi = MultiTask(digits.backbone, {"a": subject.artifact})
    with pytest.raises(ArtifactError, match="got 3 inputs and 2 tasks"):
        multi.by_row(subject.inputs()[:3], ["a", "a"])


@pytest.mark.slow
def test_the_backbone_and_other_tasks_stay_as_they_are(net):
    by_name = subjects(net)
    network, names = net.backbone.network, list(by_name)
    inputs = by_name[names[0]].inputs()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    flags, bare = [p.requires_grad for p in network.parameters()], network(inputs)
    multi = MultiTask(net.backbone)
    answers = dict[str, torch.Tensor]()
    for name in names:
        multi.add(name, by_name[name].artifact)
        now = multi(inputs)
        assert all(torch.equal(now[other], answer) for other, answer in answers.items())
        answers[name] = now[name]
    for name in names[::2]:
        multi.remove(name)
        assert all(torch.equal(answer, answers[n]) for n, answer in multi(inputs).items())
    assert torch.equal(network(inputs), bare)
    assert [p.requires_grad for p in network.parameters()] == flags
    assert all(torch.equal(network.state_dict()[name], t) for name, t in before.items())


def test_what_is_in_common_runs_once(digits):
    """With deltas in the last block, earlier layers run once; equal weights are shared, too."""
    last = Plan({"layer3.1": LAST})
    ones = [digits.subject(last).artifact for _ in range(2)]
    head = {**ones[0].tensors, "head/bias": ones[0].tensors["head/bias"] + 1}
    kernel = "delta/layer3.1/lowrank/parts.layer3.1.conv2.weight.b"
    other = {**ones[0].tensors, kernel: ones[0].tensors[kernel] + 1}
    alone = count(digits, ones[:1])
    assert len(count(digits, ones)) == len(alone)
    assert len(count(digits, [ones[0], replace(ones[0], tensors=head)])) == len(alone) + 1
    repeated = ["layer3.1.conv2", "layer3.1.bn2", "fc"]
    layers = count(digits, [ones[0], replace(ones[0], tensors=other)])
    assert sorted(layers) == sorted([*alone, *repeated])


def test_prepared_statistics_are_shared_by_those_that_have_the_same(digits):
    plans = [Plan({"layer3.1": LAST}), Plan({"layer3.0": LAST})]
    prepared = [digits.subject(plan, prepared=True).artifact for plan in plans]
    mixed = [prepared[0], digits.subject(plans[1]).artifact]
    assert len(count(digits, prepared)) < len(count(digits, mixed))
    assert count(digits, mixed).count("conv1") == 1


def count(net: Net, artifacts: list) -> list[str]:
    """Paths of the layers that run for one batch, repeated as often as they run."""
    multi = MultiTask(net.backbone, {str(at): a for at, a in enumerate(artifacts)})
    calls = multi._joint.calls.values()
    layers = [str(c.node.target) for c in calls if c.tasks and c.node.op == "call_module"]
    return [path.removeprefix("network.") for path in layers]


class Deciding(nn.Module):
    """Control flow depends on the input, so only `torch.export` can trace the network."""

    def __init__(self, is_open: bool) -> None:
        super().__init__()
        self.first, self.fc, self.is_open = nn.Linear(6, 6), nn.Linear(6, 3), is_open

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        if self.is_open and bool((x > 1e9).any()):
            return self.fc(x * 2)
        return self.fc(x.tanh() if x.shape[1] > 2 else x)


def test_a_network_without_a_graph_answers_as_a_whole(caplog):
    torch.manual_seed(0)
    network = Deciding(is_open=True)
    shape = InputDescription(shape=(6,))
    backbone = describe(network, source="deciding", family="any", input=shape)
    units = Units((Unit("first", ("first.weight", "first.bias")),), ())
    artifact = random_artifact(backbone, units, Plan({"first": LAST}), prepared=False)
    with caplog.at_level("INFO", "autotune"):
        multi = MultiTask(backbone, {"a": artifact})
    assert "runs as a whole and shares nothing" in caplog.text
    inputs = torch.randn(5, 6)
    alone = Subject(backbone, artifact, None).tuned()(inputs)
    assert torch.equal(multi(inputs)["a"], alone)
    assert all(
        torch.allclose(a, b) for a, b in zip(multi.by_row(inputs, ["a"] * 5), alone, strict=True)
    )


def test_a_network_that_only_operators_can_follow_shares_too():
    torch.manual_seed(0)
    shape = InputDescription(shape=(6,))
    backbone = describe(Deciding(is_open=False), source="deciding", family="any", input=shape)
    units = Units((Unit("first", ("first.weight", "first.bias")),), ())
    plans = [Plan({"first": LAST}), Plan()]
    artifacts = [random_artifact(backbone, units, plan, prepared=False) for plan in plans]
    multi = MultiTask(backbone, dict(zip("ab", artifacts, strict=True)))
    assert [t.graph.is_exported for t in multi._tasks.values() if t.graph] == [True] * 2
    inputs = torch.randn(5, 6)
    for name, artifact in zip("ab", artifacts, strict=True):
        alone = Subject(backbone, artifact, None).tuned()(inputs)
        assert torch.equal(multi(inputs)[name], alone)


class Encoding(nn.Module):
    """Network with a torch layer that is a single node of the graph and contains attention."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.fc = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.layer(x).mean(1))


def test_what_a_delta_does_inside_of_a_layer_stays_its_own():
    torch.manual_seed(0)
    network = Encoding().eval()
    shape = InputDescription(shape=(5, 8))
    backbone = describe(network, source="encoding", family="any", input=shape)
    names = tuple(n for n, _ in network.named_parameters() if n.startswith("layer."))
    units = Units((Unit("layer", names),), (), flow=trace(network, shape))
    plans = [Plan({"layer": Choice.of("res_prefix", length=2)}), Plan()]
    artifacts = [random_artifact(backbone, units, plan, prepared=False) for plan in plans]
    inputs = torch.randn(4, 5, 8)
    alone = [Subject(backbone, artifact, None).tuned()(inputs) for artifact in artifacts]
    multi = MultiTask(backbone, dict(zip("ab", artifacts, strict=True)))
    for name, expected in zip("ab", alone, strict=True):
        assert torch.equal(multi(inputs)[name], expected)


class Adding(nn.Module):
    """Modifies a tensor in place that has other readers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.fc = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.a(x)
        return self.fc(out.add_(self.b(x)))


def test_what_is_changed_in_place_is_changed_for_one_task():
    torch.manual_seed(0)
    shape = InputDescription(shape=(4,))
    backbone = describe(Adding().eval(), source="adding", family="any", input=shape)
    units = Units((Unit("b", ("b.weight", "b.bias")),), ())
    plans = [Plan({"b": LAST}), Plan({"b": Choice.of("scale")}), Plan()]
    artifacts = [random_artifact(backbone, units, plan, prepared=False) for plan in plans]
    inputs = torch.randn(3, 4)
    multi = MultiTask(backbone, {str(at): a for at, a in enumerate(artifacts)})
    assert all(task.graph for task in multi._tasks.values())
    for at, artifact in enumerate(artifacts):
        expected = Subject(backbone, artifact, None).tuned()(inputs)
        assert torch.equal(multi(inputs)[str(at)], expected)
        torch.testing.assert_close(torch.stack(multi.by_row(inputs, [str(at)] * 3)), expected)
    mixed = multi.by_row(inputs, ["0", "1", "0"])
    torch.testing.assert_close(mixed[1], multi(inputs)["1"][1])


class Writing(Adding):
    """Modifies a part of a tensor in place."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.a(x)
        out[:, :2].copy_(self.b(x)[:, 2:])
        return self.fc(out)


def test_networks_that_change_parts_of_values_in_place_share_nothing(caplog):
    torch.manual_seed(0)
    shape = InputDescription(shape=(4,))
    backbone = describe(Writing().eval(), source="writing", family="any", input=shape)
    units = Units((Unit("b", ("b.weight", "b.bias")),), ())
    artifacts = {
        name: random_artifact(backbone, units, plan, prepared=False)
        for name, plan in {"a": Plan({"b": LAST}), "b": Plan()}.items()
    }
    inputs = torch.randn(3, 4)
    with caplog.at_level("INFO", "autotune"):
        multi = MultiTask(backbone, artifacts)
    assert "changes parts of its values in place" in caplog.text
    for name, artifact in artifacts.items():
        assert torch.equal(multi(inputs)[name], Subject(backbone, artifact, None).tuned()(inputs))


def test_a_file_that_is_refused_leaves_nothing(digits):
    artifact = digits.subject(Plan({"layer3.1": LAST})).artifact
    multi = MultiTask(digits.backbone.network)
    wrong = replace(artifact, header={**artifact.header, "about": {"head": "layer3"}})
    for bad in (replace(artifact, fingerprint="0" * 64), wrong):
        with pytest.raises(AutotuneError):
            multi.add("bad", bad)
    multi.add("a", artifact)
    assert multi._tasks["a"].graph is not None


def test_a_prediction_makes_only_the_calls_of_the_tasks_that_it_names(digits):
    """However many tasks there are, and also after some were removed."""
    plans = [Plan({"layer3.1": Choice.of("lowrank", rank=rank)}) for rank in (1, 2, 3)]
    artifacts = [digits.subject(plan).artifact for plan in plans]
    alone, many = MultiTask(digits.backbone, {"a": artifacts[0]}), MultiTask(digits.backbone)
    for at, artifact in enumerate([artifacts[1], artifacts[0], artifacts[2]]):
        many.add("a" if at == 1 else f"other {at}", artifact)
    x = torch.randn(2, 1, 8, 8)
    for removed in (None, "other 0", "other 2"):
        if removed is not None:
            many.remove(removed)
        for one in zip(alone.by_row(x, "aa"), many.by_row(x, "aa"), strict=True):
            assert torch.equal(*one)
        lengths = [len(multi._joint.program(program_of(multi)).calls) for multi in (alone, many)]
        assert lengths[0] == lengths[1]
    assert len(many._joint.calls) == len(alone._joint.calls), "removed tasks leave nothing"


def program_of(multi: MultiTask) -> frozenset[int]:
    number = multi._tasks["a"].number
    assert number is not None
    return frozenset([number])


def test_programs_of_ever_new_sets_of_tasks_are_not_all_kept(digits, monkeypatch):
    monkeypatch.setattr("autotune.deploy.multitask.sharing.PROGRAMS", 2)
    artifact = digits.subject(Plan({"layer3.1": LAST})).artifact
    multi = MultiTask(digits.backbone, dict.fromkeys("abc", artifact))
    for tasks in ("ab", "bc", "ac", "cb"):
        multi.by_row(torch.randn(2, 1, 8, 8), tasks)
    assert len(multi._joint._programs) == 2


def test_a_task_that_is_removed_meanwhile_is_none(digits, monkeypatch):
    """Another thread removes a task after a call has begun, before its program is made."""
    artifact = digits.subject(Plan({"layer3.1": LAST})).artifact
    multi, x = MultiTask(digits.backbone, {"a": artifact, "b": artifact}), torch.randn(2, 1, 8, 8)
    program = multi._joint.program

    def removing(tasks: frozenset[int]) -> Program:
        if "b" in multi.tasks:
            multi.remove("b")
        return program(tasks)

    monkeypatch.setattr(multi._joint, "program", removing)
    assert set(multi(x)) == {"a"}
    multi.add("b", artifact)
    with pytest.raises(ArtifactError, match="no task named 'b'"):
        multi.by_row(x, "ab")


def test_what_is_removed_is_forgotten(digits):
    artifact = digits.subject(Plan({"layer3.1": LAST})).artifact
    multi = MultiTask(digits.backbone, {"a": artifact})
    network = weakref.ref(multi._tasks["a"].network)
    multi.remove("a")
    gc.collect()
    assert network() is None


def test_a_backbone_with_a_delta_on_is_no_backbone(digits):
    artifact = digits.subject(Plan({"layer3.1": LAST})).artifact
    occupied = replace(digits.backbone, network=copy.deepcopy(digits.backbone.network))
    load_adapted(occupied, artifact)
    with pytest.raises(ArtifactError, match="goes onto the bare backbone"):
        MultiTask(occupied, {"a": artifact})


def test_names_and_files_that_cannot_be(digits, tmp_path):
    artifact = digits.subject(Plan({"layer3.1": LAST})).artifact
    multi = MultiTask(digits.backbone, {"a": artifact})
    with pytest.raises(ArtifactError, match="needs a unique name, 'a' is taken"):
        multi.add("a", artifact)
    for call in (multi.remove, lambda name: multi.by_row(torch.zeros(1, 1, 8, 8), [name])):
        with pytest.raises(ArtifactError, match="no task named 'b'"):
            call("b")
    other = copy.deepcopy(digits.backbone.network)
    with torch.no_grad():
        other.fc.weight.zero_()  # the head is not part of the fingerprint
        MultiTask(other, {"a": artifact})
        other.conv1.weight.zero_()
    with pytest.raises(ArtifactError, match="wants fingerprint"):
        MultiTask(other, {"a": artifact})
    assert list(multi.tasks) == ["a"]


class Masking(Adding):
    """Computes a constant from a buffer while it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.tensor([True, False, True, False]))

    def forward(self, x):
        return super().forward(x.masked_fill(~self.mask, 0))


def test_constants_that_the_network_computes_are_there_for_every_task():
    torch.manual_seed(0)
    shape = InputDescription(shape=(4,))
    backbone = describe(Masking().eval(), source="masking", family="any", input=shape)
    units = Units((Unit("b", ("b.weight", "b.bias")),), ())
    artifact = random_artifact(backbone, units, Plan({"b": LAST}), prepared=False)
    multi, inputs = MultiTask(backbone, {"a": artifact}), torch.randn(3, 4)
    assert all(task.graph for task in multi._tasks.values())
    assert torch.equal(multi(inputs)["a"], Subject(backbone, artifact, None).tuned()(inputs))
