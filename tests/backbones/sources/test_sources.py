"""Where backbones come from: the digits, torchvision, functions of the user's, weights files."""

from __future__ import annotations

import logging
import os
import pickle
import shutil
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from autotune.backbones import load_backbone
from autotune.backbones.base import describe, fingerprint
from autotune.backbones.inputs import InputDescription
from autotune.backbones.sources.digits import DigitsNet, cache_file
from autotune.backbones.sources.digits_data import halves
from autotune.backbones.sources.torchvision import image_size
from autotune.backbones.weights.loading import load_weights, read_weights
from autotune.errors import BackboneError, NotBuilt, UnknownName

# the digits network, trained once and kept


class Stop(Exception):
    """Stands for the user's Ctrl-C."""


class StopAtFirstEpoch(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "event", {}).get("kind") == "progress":
            raise Stop


@pytest.fixture
def no_training(cached: Path) -> Iterator[None]:
    """Stops a pretraining after its first epoch, once the network is cached."""
    logger, handler = logging.getLogger("autotune"), StopAtFirstEpoch()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield
    logger.setLevel(level)
    logger.removeHandler(handler)


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the cache file, in a cache of the test's own."""
    load_backbone("builtin:digits")
    copy = shutil.copy(cache_file(), tmp_path)
    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path))
    return Path(copy)


def test_the_digits_network_knows_its_digits():
    backbone = load_backbone("builtin:digits")
    (x, y), _ = halves()
    with torch.no_grad():
        right = backbone.network.eval()(torch.from_numpy(x)).argmax(1).numpy() == y
    assert right.mean() > 0.99
    assert (backbone.head, backbone.input.example_shape) == ("fc", (1, 8, 8))


@pytest.mark.usefixtures("no_training")
def test_the_digits_network_is_trained_once(cached):
    assert load_backbone("builtin:digits").fingerprint == (
        load_backbone("builtin:digits").fingerprint
    )
    assert cache_file() == cached


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "foreign", "header"])
def test_a_damaged_cache_is_noticed(cached, damage):
    content = bytearray(cached.read_bytes())
    content[-100] ^= 1
    damaged = {
        "truncated": content[:-100],
        "flipped": content,
        "empty": b"",
        "foreign": b"x" * 100,
        "header": b"\xff" * 8 + content[8:],
    }
    cached.write_bytes(damaged[damage])
    with pytest.raises(Stop):
        load_backbone("builtin:digits")
    assert cached.read_bytes() == damaged[damage]


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize("place", ["a pipe", "a folder", "another network", "another user"])
def test_a_cache_that_is_no_file_of_the_user_is_not_taken(cached, place):
    if place == "another user":
        if os.geteuid() != 0:
            pytest.skip("only root can give a file to another user")
        os.chown(cached, 12345, 12345)
    else:
        cached.unlink()
    if place == "a pipe":
        os.mkfifo(cached)
    if place == "a folder":
        cached.mkdir()
    if place == "another network":
        state = {"weight": torch.zeros(3)}
        save_file(state, cached, metadata={"fingerprint": fingerprint(state)})
    with pytest.raises(Stop):
        load_backbone("builtin:digits")


@pytest.mark.slow
def test_a_damaged_cache_is_built_again_with_equal_bits(cached):
    whole = cached.read_bytes()
    cached.write_bytes(whole[:1000])
    load_backbone("builtin:digits")
    assert cached.read_bytes() == whole
    assert os.listdir(cached.parent) == [cached.name]


# names


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("builtin:digit", "There is no builtin backbone named 'digit'. Did you mean 'digits'?"),
        ("torchvison:resnet50", "no backbone source named 'torchvison'. Did you mean 'torchvis"),
        ("torchvision:resnet5", "no torchvision backbone named 'resnet5'. Did you mean 'resnet50'"),
        ("resnet50", "There is no backbone named 'resnet50'"),
        ("python:nowhere", "A python: backbone is written python:MODULE-or-FILE:FUNCTION"),
    ],
)
def test_an_unknown_name_gets_the_nearest_known(source, message):
    with pytest.raises(UnknownName) as caught:
        load_backbone(source)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["timm:resnet50", "hf:google/vit"])
def test_reserved_sources_say_so_in_one_line(source):
    with pytest.raises(NotBuilt, match=r"is reserved but not built yet\. Build the network in a"):
        load_backbone(source)


# heads


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("resnet18", "fc"),
        ("mobilenet_v2", "classifier.1"),
        ("vit_b_16", "heads.head"),
        ("squeezenet1_0", "classifier.1"),
    ],
)
def test_the_head_of_a_torchvision_network_is_found(name, head):
    backbone = load_backbone(f"torchvision:{name}", shapes_only=True)
    assert backbone.head == head
    assert not any(p.startswith(f"{head}.") for p in backbone.parameters())
    assert (backbone.fingerprint, backbone.input.example_shape) == ("", (3, 224, 224))


# sizes of images


@pytest.mark.parametrize(
    "name", ["vit_h_14", "vit_b_16", "maxvit_t", "efficientnet_b7", "swin_v2_t"]
)
def test_a_torchvision_network_takes_images_of_the_size_of_its_weights(name):
    backbone = load_backbone(f"torchvision:{name}", shapes_only=True)
    images = torch.empty(1, *backbone.input.example_shape, device="meta")
    with torch.no_grad():
        assert backbone.network.eval()(images).shape == (1, 1000)


def test_random_weights_are_of_the_described_size():
    described = InputDescription(size=(64, 64))
    backbone = load_backbone("torchvision:vit_b_32", weights="none", input=described)
    assert backbone.network.image_size == 64


@pytest.mark.parametrize("name", ["vit_b_32", "maxvit_t"])
def test_a_size_that_a_network_does_not_take_is_refused_in_one_line(name):
    with pytest.raises(BackboneError, match="cannot be built for images of 63 pixels") as caught:
        load_backbone(
            f"torchvision:{name}", shapes_only=True, input=InputDescription(size=(63, 63))
        )
    assert "\n" not in str(caught.value)


def test_weights_for_another_size_decide_on_it():
    published = torchvision.models.ViT_B_16_Weights.DEFAULT
    state = {
        "encoder.pos_embedding": torch.empty(1, 577, 768, device="meta"),
        "conv_proj.weight": torch.empty(768, 3, 16, 16, device="meta"),
    }
    assert image_size("vit_b_16", published, state, None) == 384
    with pytest.raises(
        BackboneError, match=r"must have the size of its weights, 384, .*\(224, 224\)"
    ):
        image_size("vit_b_16", published, state, InputDescription(size=(224, 224)))


def test_a_network_without_a_head_is_refused_with_the_way_out():
    with pytest.raises(BackboneError, match="the network itself"):
        describe(nn.Linear(2, 2), source="x", family="any")
    with pytest.raises(BackboneError, match="must have parameters"):
        describe(nn.ReLU(), source="x", family="any")


def test_a_head_that_is_named_must_be_a_layer(tiny_network):
    assert describe(tiny_network, source="x", family="any", head="first.conv").head == "first.conv"
    with pytest.raises(BackboneError, match=r"has no layer 'heads'. Name another --head"):
        describe(tiny_network, source="x", family="any", head="heads")
    with pytest.raises(BackboneError, match=r"a layer with parameters .* 'relu' is a ReLU"):
        describe(
            nn.Sequential(OrderedDict(fc=nn.Linear(2, 2), relu=nn.ReLU())),
            source="x",
            family="any",
            head="relu",
        )


def test_the_fingerprint_sees_every_bit_but_those_of_the_head(tiny_backbone):
    before = tiny_backbone.fingerprint
    tiny_backbone.network.fc.weight.data.zero_()
    assert fingerprint(tiny_backbone.tensors()) == before
    tiny_backbone.network.norm.num_batches_tracked += 1
    assert fingerprint(tiny_backbone.tensors()) != before


# weights files


@pytest.fixture
def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return DigitsNet()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
def test_weights_round_trip(tmp_path, network, suffix):
    file = tmp_path / f"weights{suffix}"
    save = save_file if suffix == ".safetensors" else torch.save
    save(network.state_dict(), file)
    backbone = load_backbone("builtin:digits", weights=str(file))
    expected = fingerprint(describe(network, source="x", family="any").tensors())
    assert backbone.fingerprint == expected


def test_weights_of_a_wrapped_checkpoint_are_found(tmp_path, network):
    file = tmp_path / "checkpoint.pth"
    state = {f"module.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, file)
    other = load_weights(DigitsNet(), read_weights(str(file)), source=str(file))
    assert torch.equal(other.layer3[1].conv2.weight, network.layer3[1].conv2.weight)


def test_a_network_that_has_a_module_named_module_keeps_its_names(network):
    wrapped, other = nn.Module(), nn.Module()
    wrapped.module, other.module = network, DigitsNet()
    load_weights(other, wrapped.state_dict(), source="x")
    assert torch.equal(other.module.conv1.weight, network.conv1.weight)


def test_weights_may_have_another_head_and_lack_counters(network):
    state = {k: t for k, t in network.state_dict().items() if not k.endswith("_tracked")}
    state.update({"fc.weight": torch.zeros(99, 128), "fc.bias": torch.zeros(99)})
    other = load_weights(DigitsNet(), state, source="x")
    assert torch.equal(other.conv1.weight, network.conv1.weight)
    assert other.fc.weight.shape == (10, 128)


def test_half_precision_is_widened(network):
    state = {k: t.half() for k, t in network.state_dict().items()}
    other = load_weights(DigitsNet(), state, source="x")
    assert other.conv1.weight.dtype == torch.float32
    assert torch.equal(other.conv1.weight, network.conv1.weight.half().float())


@pytest.mark.parametrize("fault", ["missing", "extra", "misshaped"])
def test_weights_that_do_not_match_name_the_tensors(network, fault):
    state = dict(network.state_dict())
    if fault == "missing":
        del state["layer1.0.conv1.weight"], state["bn1.running_mean"]
        message = "lacks tensors (2), first bn1.running_mean, layer1.0.conv1.weight. Check"
    elif fault == "extra":
        state["layer9.weight"] = torch.zeros(1)
        message = "has unexpected tensors (1), first layer9.weight"
    else:
        state["conv1.weight"] = torch.zeros(32, 3, 3, 3)
        message = "has tensors of other shapes (1), first conv1.weight"
    with pytest.raises(BackboneError) as caught:
        load_weights(DigitsNet(), state, source="file.pth")
    assert message in str(caught.value)


def test_weights_do_not_change_a_network_that_they_do_not_fit(network):
    other = DigitsNet()
    before = {k: t.clone() for k, t in other.state_dict().items()}
    state = dict(network.state_dict()) | {"bn1.weight": torch.zeros(1)}
    with pytest.raises(BackboneError):
        load_weights(other, state, source="x")
    assert all(torch.equal(t, before[k]) for k, t in other.state_dict().items())


def test_a_named_head_is_enough_for_weights(tmp_path):
    source, file = tmp_path / "normed.py", tmp_path / "weights.safetensors"
    source.write_text(
        "from torch import nn\n"
        "def make():\n    return nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.LayerNorm(2))\n"
    )
    save_file(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.LayerNorm(2)).state_dict(), file)
    backbone = load_backbone(f"python:{source}:make", weights=str(file), head="1")
    assert backbone.head == "1"


class Mischief:
    """Would create a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return (Path.touch, (self.file,))


@pytest.mark.parametrize("new", [True, False])
def test_a_pickled_object_is_refused_and_never_run(tmp_path, new):
    file, created = tmp_path / "weights.pth", tmp_path / "created"
    torch.save({"a": Mischief(created)}, file, _use_new_zipfile_serialization=new)
    with pytest.raises(BackboneError, match="must hold tensors alone") as caught:
        read_weights(str(file))
    assert not created.exists()
    assert "\n" not in str(caught.value)
    pickle.loads(pickle.dumps(Mischief(created)))
    assert created.exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("w.npz", b"", "must be a .safetensors, .pth, .pt, .bin file"),
        ("w.bin", b"", "must hold tensors alone"),
        ("w.safetensors", b"", "must hold tensors alone"),
        ("w.safetensors", b"\xff" * 64, "must hold tensors alone"),
        ("w.pth", b"", "must hold tensors alone"),
        ("w.pth", b"PK\x03\x04 and no more", "must hold tensors alone"),
        ("w.pth", None, "must exist"),
    ],
)
def test_a_file_that_holds_no_weights_is_refused(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(BackboneError) as caught:
        read_weights(str(tmp_path / name))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("stored", [{}, {"a": 1}, [torch.zeros(1)], torch.zeros(1)])
def test_what_is_no_state_dict_is_refused(tmp_path, stored):
    torch.save(stored, tmp_path / "w.pth")
    with pytest.raises(BackboneError, match="must hold a state dict"):
        read_weights(str(tmp_path / "w.pth"))


# functions of the user's

NET = """
from torch import nn
def make():
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
def fails():
    raise RuntimeError("no weights here")
def nothing():
    return 5
"""


def test_a_function_in_a_file_gives_a_backbone(tmp_path):
    (tmp_path / "net.py").write_text(NET)
    source = f"python:{tmp_path / 'net.py'}:make"
    backbone = load_backbone(source)
    assert (backbone.source, backbone.family, backbone.head) == (source, "any", "1")
    assert backbone.input is None


def test_a_function_in_a_module_gives_a_backbone(tmp_path, monkeypatch):
    (tmp_path / "a_module_of_the_test.py").write_text(NET)
    monkeypatch.syspath_prepend(tmp_path)
    assert load_backbone("python:a_module_of_the_test:make").head == "1"


@pytest.mark.parametrize(
    ("rest", "error", "message"),
    [
        (
            "net.py:mak",
            UnknownName,
            "There is no function in net.py named 'mak'. Did you mean 'mak",
        ),
        ("net.py:fails", BackboneError, "raised RuntimeError: no weights here. Call it directly"),
        (
            "net.py:nothing",
            BackboneError,
            "torch.nn.Module, python:net.py:nothing is of type int",
        ),
        ("lost.py:make", BackboneError, "must exist, 'lost.py' does not"),
        ("no_such_module:make", BackboneError, "it raised ModuleNotFoundError"),
        ("broken.py:make", BackboneError, "python:broken.py must import, it raised SyntaxError"),
    ],
)
def test_a_function_that_gives_none_names_the_reason(tmp_path, monkeypatch, rest, error, message):
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "broken.py").write_text("def make(:")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(error) as caught:
        load_backbone(f"python:{rest}")
    assert message in str(caught.value)


# torchvision that does not belong to torch


@pytest.mark.slow
def test_a_torchvision_of_another_torch_is_reported_in_one_line(tmp_path):
    package = tmp_path / "torchvision"
    package.mkdir()
    text = 'raise RuntimeError("operator torchvision::nms does not exist")\n'
    (package / "__init__.py").write_text(text)
    code = (
        "from autotune.backbones import load_backbone\n"
        "from autotune.errors import DependencyError\n"
        "try: load_backbone('torchvision:resnet18')\n"
        "except DependencyError as error: print(error)\n"
    )
    paths = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(ran.stdout.splitlines()) == 1
    assert "must match the installed torch" in ran.stdout
    assert "(operator torchvision::nms does not exist)" in ran.stdout
    assert "pip install --upgrade torch torchvision" in ran.stdout


def test_a_backbone_of_a_source_does_not_train():
    assert not load_backbone("builtin:digits").network.training
