"""Every method in every format that supports it, read in a new process by the format's library."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

from autotune.backbones.eval_mode import evaluating
from autotune.deltas.apply import tuned
from autotune.deltas.artifact import from_bytes, to_bytes
from autotune.deploy.export import FORMATS
from autotune.deploy.export.base import Subject, written
from autotune.deploy.export.from_peft import import_peft
from autotune.errors import ArtifactError, ExportError, MergeError
from autotune.problem.plan import Plan

from .plain import SHAPES
from .subjects import CLASSES, Net, is_mergeable

NETS = list(SHAPES)
TOLERANCE = {"merged": 1e-5, "module": 1e-5, "onnx": 1e-4, "peft": 1e-5}


@pytest.fixture(scope="module")
def net(request) -> Net:
    return Net(request.param)


@pytest.fixture(scope="module")
def nets() -> list[Net]:
    return [Net(name) for name in NETS]


def claimed(net: Net, form: str) -> list[Subject]:
    """Subjects that a format can represent; one of them has prepared statistics."""
    *plans, for_peft = net.plans()
    mergeable = [plan for plan in plans if is_mergeable(plan)]
    if form == "peft":  # PEFT cannot store the position embedding, which is in no layer
        all_ = [plan for plan in mergeable if "encoder.pos_embedding" not in plan.choices]
        return [*map(net.subject, all_), *(net.subject(for_peft, prepared=p) for p in (0, 1))]
    if form == "merged":
        return [*map(net.subject, mergeable), net.subject(for_peft, prepared=True)]
    others = [plan for plan in plans if plan not in mergeable]
    if not set(mergeable[0].choices) & set(others[0].choices):  # both in one plan
        others[0] = Plan({**mergeable.pop(0).choices, **others[0].choices})
    return [net.subject(plan, prepared=at == 0) for at, plan in enumerate([*others, *mergeable])]


def put_case(folder: Path, net: Net, subject: Subject, form: str) -> None:
    folder.mkdir(parents=True)
    deviation = written(FORMATS.load(form)(), subject, folder / form)
    assert deviation is not None
    assert deviation <= TOLERANCE[form]
    generator, batches = torch.Generator().manual_seed(5), {}
    with tuned(subject.backbone, subject.artifact) as network, evaluating(network):
        for n in (1, 4):
            batches[f"x{n}"] = torch.randn(n, *SHAPES[net.name], generator=generator)
            batches[f"y{n}"] = network(batches[f"x{n}"])
    save_file(batches, folder / "batches")
    (folder / "case.json").write_text(json.dumps({"net": net.name, "classes": CLASSES}))


@pytest.mark.slow
@pytest.mark.parametrize("form", TOLERANCE)
def test_a_stranger_computes_the_same(form, nets, tmp_path):
    """One process reads the cases of all networks, as most of its time goes into imports.

    Exports that trace take seconds per case: they leave the second convolutional network out.
    """
    read = [net for net in nets if form in ("merged", "peft") or net.name != "resnet18"]
    cases = [(net, subject) for net in read for subject in claimed(net, form)]
    for at, (net, subject) in enumerate(cases):
        put_case(tmp_path / f"{at:03}-{net.name}", net, subject, form)
    stranger = Path(__file__).parent / "stranger.py"
    command = [sys.executable, str(stranger), form, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    differences = json.loads(done.stdout.splitlines()[-1])
    assert len(differences) == len(cases)
    for case, by_batch in differences.items():
        assert max(by_batch) <= TOLERANCE[form], (case, by_batch)


@pytest.mark.parametrize("net", NETS, indirect=True)
def test_a_merged_network_has_the_backbones_names_shapes_and_dtypes(net, tmp_path):
    subject = net.subject(net.plans()[0], prepared=True)
    written(FORMATS.load("merged")(), subject, tmp_path / "merged")
    merged, bare = load_file(tmp_path / "merged"), net.backbone.network.state_dict()
    assert set(merged) == set(bare)
    for name, tensor in bare.items():
        head = name.startswith(f"{net.backbone.head}.")
        assert merged[name].shape[head:] == tensor.shape[head:]
        assert merged[name].dtype == tensor.dtype


@pytest.mark.parametrize("net", ["digits"], indirect=True)
@pytest.mark.parametrize("form", ["merged", "peft", pytest.param("module", marks=pytest.mark.slow)])
def test_a_full_disk_is_said_and_leaves_nothing(net, form, full_disk):
    """Libraries raise errors of their own, and torch aborts the process where it writes a file."""
    with pytest.raises(ExportError, match=r"No space left on device.*\. Make room, or use another"):
        written(FORMATS.load(form)(), net.subject(net.plans()[-1]), full_disk / "out" / form)
    assert not list((full_disk / "out").iterdir())


@pytest.mark.parametrize("net", ["digits"], indirect=True)
@pytest.mark.parametrize(
    ("form", "error", "match"),
    [
        ("merged", MergeError, "res_adapter in stem, skip in layer1, side in layer2 adds"),
        ("peft", ExportError, r"not stem \(res_adapter-2\), layer1 \(skip-2\), layer2 \(side-2\)"),
    ],
)
def test_what_has_no_such_form_is_named_and_nothing_is_written(net, form, error, match, tmp_path):
    subject = net.subject(net.plans()[1])
    with pytest.raises(error, match=match):
        written(FORMATS.load(form)(), subject, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("net", ["digits"], indirect=True)
@pytest.mark.parametrize("form", FORMATS.names())
def test_an_export_leaves_the_backbone_as_it_was(net, form, tmp_path):
    network = net.backbone.network
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    objects = [(name, id(p), p.requires_grad) for name, p in network.named_parameters()]
    written(FORMATS.load(form)(), net.subject(net.for_peft(), prepared=True), tmp_path / "out")
    assert [(n, id(p), p.requires_grad) for n, p in network.named_parameters()] == objects
    assert all(torch.equal(network.state_dict()[name], t) for name, t in before.items())


@pytest.mark.parametrize("net", ["digits"], indirect=True)
def test_what_computes_something_else_is_refused_and_not_there(net, tmp_path):
    class Wrong(FORMATS.load("delta")):
        def write(self, subject, path):
            artifact = subject.artifact
            tensors = {k: t + 1 if k == "head/bias" else t for k, t in artifact.tensors.items()}
            wrong = replace(subject, artifact=replace(artifact, tensors=tensors))
            super().write(wrong, path)

    (tmp_path / "out").write_text("before")
    with pytest.raises(ExportError, match="changes them by"):
        written(Wrong(), net.subject(net.for_peft()), tmp_path / "out")
    assert [(f.name, f.read_text()) for f in tmp_path.iterdir()] == [("out", "before")]


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize("net", NETS, indirect=True)
def test_an_adapter_of_peft_comes_back_as_a_delta(net, prepared, tmp_path):
    subject = net.subject(net.for_peft(), prepared=prepared)
    written(FORMATS.load("peft")(), subject, tmp_path / "adapter")
    again = replace(subject, artifact=import_peft(tmp_path / "adapter", subject.backbone))
    torch.testing.assert_close(again.outputs(), subject.outputs(), rtol=1e-5, atol=1e-6)
    assert {c.label for c in again.artifact.plan.choices.values()} >= {"subtune-all", "lowrank-2"}
    back = from_bytes(to_bytes(again.artifact), "test")
    assert back.plan == again.artifact.plan


@pytest.mark.parametrize("net", ["digits"], indirect=True)
def test_a_scaled_adapter_that_peft_made_is_imported(net, tmp_path):
    config = LoraConfig(r=4, lora_alpha=6, target_modules=["conv2"], rank_pattern={"conv2": 3})
    torch.manual_seed(0)
    model = get_peft_model(net.subject(net.for_peft()).bare(), config).eval()
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(str(tmp_path))
    artifact = import_peft(tmp_path, net.backbone)
    head = net.backbone.network.get_submodule("fc").state_dict()
    model.base_model.model.fc = net.backbone.network.fc
    subject = replace(net.subject(net.for_peft()), artifact=artifact)
    with evaluating(model):
        torch.testing.assert_close(subject.outputs(), model(subject.inputs()))
    assert torch.equal(artifact.tensors["head/weight"], head["weight"])


@pytest.mark.parametrize("net", ["digits"], indirect=True)
@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"peft_type": "IA3"}, "Only LoRA adapters"),
        ({"use_dora": True}, "has use_dora=True"),
        ({"bias": "all"}, "has bias='all'"),
        (None, "is a folder with adapter_config.json"),
    ],
)
def test_what_is_no_plain_lora_is_refused(net, change, match, tmp_path):
    written(FORMATS.load("peft")(), net.subject(net.for_peft()), tmp_path / "adapter")
    config = tmp_path / "adapter" / "adapter_config.json"
    content = json.loads(config.read_text()) | change if change else None
    config.write_text(json.dumps(content) if content else "{")
    with pytest.raises(ArtifactError, match=match):
        import_peft(tmp_path / "adapter", net.backbone)


def test_an_adapter_of_another_network_is_refused(tmp_path):
    net = Net("digits")
    written(FORMATS.load("peft")(), net.subject(net.for_peft()), tmp_path / "adapter")
    with pytest.raises(ArtifactError, match="does not fit resnet18"):
        import_peft(tmp_path / "adapter", Net("resnet18").backbone)
