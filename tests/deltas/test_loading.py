"""Delta files on a model: on, exchanged for each other, off, or merged for good."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

import autotune
from autotune.backbones.base import describe
from autotune.backbones.dataflow import trace
from autotune.backbones.inputs import InputDescription
from autotune.backbones.units import find_units
from autotune.deltas.artifact import read_artifact, read_header
from autotune.deltas.loading import adapted, detach, load_adapted, merge, switch
from autotune.errors import ArtifactError, MergeError
from autotune.problem.job import Job
from autotune.problem.plan import Choice, Plan
from autotune.tasks.loading import PartFeed
from autotune.training.engine import Engine
from autotune.training.loop import Recipe, predict

INPUT = InputDescription(shape=(1, 6, 6))
ALL = Choice.of("subtune", what="all")
PLANS = {
    "a": Plan({"conv": Choice.of("scale"), "second": ALL}),
    "b": Plan({"first": Choice.of("lowrank", rank=2), "second": Choice.of("lowrank", rank=1)}),
    "path": Plan({"first": Choice.of("res_adapter", width=2), "second": ALL}),
}


@pytest.fixture
def make_file(new_tiny_network, tiny_task, tmp_path):
    """Delta files, trained for an epoch; `a` with prepared statistics."""

    def make(name: str, seed: int = 0):
        plan, network = PLANS[name], new_tiny_network()
        backbone = describe(network, source="tiny", family="any", input=INPUT)
        units = replace(find_units(backbone, "tree"), flow=trace(network, INPUT))
        rates = {f"lr:{method}": 0.05 for method in ("head", *plan.methods())}
        engine = Engine(backbone, units, tiny_task, Recipe(epochs=1), input=INPUT)
        engine.prepare(engine.statistics() if name == "a" else {})
        *_, last = engine(Job("trial 0", plan, rates, seed=seed, number=0))
        engine.close()
        (tmp_path / f"{name}.safetensors").write_bytes(last.artifact)
        return tmp_path / f"{name}.safetensors"

    return make


@pytest.fixture
def inputs(tiny_task) -> torch.Tensor:
    return tiny_task.test.inputs


def state(network: nn.Module) -> list:
    tensors = {name: t.clone() for name, t in network.state_dict().items()}
    named = [(n, id(p), p.requires_grad) for n, p in network.named_parameters()]
    buffers = [(n, id(b)) for n, b in network.named_buffers()]
    modules = [(n, id(m), type(m), m.training) for n, m in network.named_modules()]
    return [tensors, named, buffers, modules]


def same(first: list, second: list) -> bool:
    tensors = zip(first[0].items(), second[0].items(), strict=True)
    return first[1:] == second[1:] and all(
        a == b and torch.equal(x, y) for (a, x), (b, y) in tensors
    )


def alone(network: nn.Module, file, inputs: torch.Tensor) -> torch.Tensor:
    """What a delta gives on a copy of the network."""
    return load_adapted(copy.deepcopy(network), file)(inputs)


@pytest.mark.parametrize("name", PLANS)
def test_loading_and_detaching_restore_the_model(make_file, name, tiny_network):
    file = make_file(name)
    tiny_network.train()
    tiny_network.first.requires_grad_(False)
    before = state(tiny_network)
    model = autotune.load_adapted(tiny_network, file)
    assert model is tiny_network
    assert not same(state(model), before)
    assert not any(m.training for m in model.modules())
    assert not any(p.requires_grad for p in model.parameters())
    autotune.detach(model)
    assert same(state(model), before)


def test_two_loads_of_one_file_give_equal_outputs(make_file, tiny_network, inputs):
    file, other = make_file("a"), copy.deepcopy(tiny_network)
    outputs = [load_adapted(network, file)(inputs) for network in (tiny_network, other)]
    assert torch.equal(*outputs)
    detach(other)
    assert not torch.equal(other.eval()(inputs), outputs[0])
    assert torch.equal(tiny_network(inputs), outputs[0])


def test_deltas_of_several_tasks_are_exchanged_and_never_mix(make_file, tiny_network, inputs):
    before, bare = state(tiny_network.eval()), tiny_network(inputs)
    files = {name: make_file(name) for name in PLANS}
    outputs_alone = {name: alone(tiny_network, file, inputs) for name, file in files.items()}
    for name, file in files.items():
        assert torch.equal(load_adapted(tiny_network, file, name=name)(inputs), outputs_alone[name])
    for name in ("a", "path", "b", "a", "a", "path"):
        assert torch.equal(switch(tiny_network, name)(inputs), outputs_alone[name])
    assert torch.equal(switch(tiny_network, None)(inputs), bare)
    assert same(state(tiny_network), before)
    detach(tiny_network, "a")
    assert torch.equal(switch(tiny_network, "b")(inputs), outputs_alone["b"])
    detach(tiny_network, "path")
    assert torch.equal(tiny_network(inputs), outputs_alone["b"])
    detach(tiny_network)
    assert same(state(tiny_network), before)


def test_what_an_owner_does_to_a_model_meanwhile_stays(make_file, tiny_network, inputs):
    """Hooks of one's own; modes do not, as a delta is on in evaluation mode."""
    load_adapted(tiny_network, make_file("a"), name="a")
    load_adapted(tiny_network, make_file("b"), name="b")
    seen: list[str] = []
    tiny_network.register_forward_hook(lambda *_: seen.append("mine"))
    tiny_network.train()
    for name in ("a", None, "b"):
        switch(tiny_network, name)(inputs)
    assert seen == ["mine"] * 3
    assert not tiny_network.training
    detach(tiny_network)(inputs)
    assert seen == ["mine"] * 4


@pytest.mark.accelerator
@pytest.mark.parametrize("name", PLANS)
def test_a_model_moves_to_another_device_with_all_its_deltas(make_file, name, tiny_network, inputs):
    before = state(tiny_network.eval())[0]
    load_adapted(tiny_network, make_file(name), name=name)
    load_adapted(tiny_network, make_file("b", seed=1), name="other")
    on_cpu = switch(tiny_network, name)(inputs)
    switch(tiny_network, "other")
    tiny_network.to("cuda")
    torch.testing.assert_close(switch(tiny_network, name)(inputs.cuda()).cpu(), on_cpu)
    detach(tiny_network)
    assert {t.device.type for t in tiny_network.state_dict().values()} == {"cuda"}
    after = tiny_network.to("cpu").state_dict()
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())


def test_a_name_is_given_once(make_file, tiny_network):
    file = make_file("a")
    load_adapted(tiny_network, file)
    before = state(tiny_network)
    with pytest.raises(ArtifactError, match="needs a name of its own, 'default' is taken"):
        load_adapted(tiny_network, file)
    for call in (switch, detach):
        with pytest.raises(ArtifactError, match="no delta on this model named 'b'"):
            call(tiny_network, "b")
    assert same(state(tiny_network), before)
    detach(tiny_network)
    for call in (detach, merge):
        with pytest.raises(ArtifactError, match="There is no delta on this model"):
            call(tiny_network)


def test_another_backbone_is_refused_and_left_alone(make_file, tiny_network):
    file = make_file("a")
    with torch.no_grad():
        tiny_network.conv.weight[0, 0, 0, 0] += 1e-6
    before = state(tiny_network)
    with pytest.raises(
        ArtifactError, match=r"wants fingerprint \w{12}, the model has \w{12}\. Load"
    ):
        load_adapted(tiny_network, file)
    assert same(state(tiny_network), before)


def test_a_refused_file_leaves_the_one_that_is_on(make_file, tiny_network, inputs, tmp_path):
    load_adapted(tiny_network, make_file("b"))
    outputs = tiny_network(inputs)
    damaged = read_artifact(make_file("a"))
    del damaged.tensors["head/weight"]  # type: ignore[attr-defined]
    with pytest.raises(ArtifactError, match="do not fit its own plan"):
        load_adapted(tiny_network, damaged, name="a")
    assert torch.equal(tiny_network(inputs), outputs)


def test_another_head_is_no_other_backbone(make_file, tiny_network):
    file = make_file("a")
    tiny_network.fc = nn.Linear(4, 99)
    model = load_adapted(tiny_network, file)
    assert model.fc.out_features == 3
    assert detach(model).fc.out_features == 99


def test_predictions_of_a_loaded_model_are_those_of_the_trial(make_file, tiny_network, tiny_task):
    file = make_file("a")
    norm_ids = read_header(file)["metrics"]["val"]["accuracy"]
    val = PartFeed(tiny_task.val, None, torch.device("cpu"))
    logits, labels = predict(load_adapted(tiny_network, file), val, Recipe())
    assert float((logits.argmax(1) == labels).float().mean()) == pytest.approx(norm_ids)


def test_for_a_while_a_delta_is_on_whatever_was_before(make_file, tiny_network, inputs):
    before, file = state(tiny_network), make_file("path")
    outputs = alone(tiny_network, file, inputs)
    with adapted(tiny_network, file) as model:
        assert torch.equal(model(inputs), outputs)
    assert same(state(tiny_network), before)
    load_adapted(tiny_network, make_file("a"), name="a")
    outputs = tiny_network(inputs)
    with adapted(tiny_network, make_file("b")) as model:
        assert not torch.equal(model(inputs), outputs)
    assert torch.equal(tiny_network(inputs), outputs)


@pytest.mark.parametrize("name", ["a", "b"])
def test_merged_it_is_a_plain_network(make_file, name, tiny_network, inputs):
    names, file = list(tiny_network.state_dict()), make_file(name)
    parameters = {n: id(p) for n, p in tiny_network.named_parameters() if n.startswith("norm")}
    tuned = load_adapted(tiny_network, file)(inputs)
    assert merge(tiny_network, inputs) <= 1e-5
    torch.testing.assert_close(tiny_network.eval()(inputs), tuned, rtol=1e-5, atol=1e-6)
    assert list(tiny_network.state_dict()) == names
    norm_ids = {n: id(p) for n, p in tiny_network.named_parameters() if n.startswith("norm")}
    assert norm_ids == parameters
    assert not any("Parametrized" in type(m).__name__ for m in tiny_network.modules())
    with pytest.raises(ArtifactError, match="wants fingerprint"):
        load_adapted(tiny_network, file)


def test_what_cannot_be_merged_stays_on(make_file, tiny_network, inputs):
    tuned = load_adapted(tiny_network, make_file("path"))(inputs)
    with pytest.raises(MergeError, match="res_adapter in first adds a path"):
        merge(tiny_network, inputs)
    assert torch.equal(tiny_network(inputs), tuned)
    load_adapted(tiny_network, make_file("b"), name="b")
    with pytest.raises(ArtifactError, match="one delta on the model and no other, there are 2"):
        merge(tiny_network, inputs)
