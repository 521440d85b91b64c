"""Networks that cannot be a backbone are refused in one line with the way out."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

import autotune
from autotune.backbones.base import describe
from autotune.errors import AutotuneError, BackboneError

X, Y = torch.randn(20, 8), torch.arange(20) % 2


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, 2))


def lazy_statistics() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 8), nn.LazyBatchNorm1d(affine=False), nn.Linear(8, 2))


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(nn.Sequential(nn.Linear(8, 2)))


def partly_scripted() -> nn.Module:
    return nn.Sequential(scripted(), nn.Linear(2, 2))


def on_meta() -> nn.Module:
    with torch.device("meta"):
        return nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2))


def partly_on_meta() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8, device="meta"), nn.Linear(8, 2))


@pytest.mark.parametrize(
    ("make", "rule", "way_out"),
    [
        (lazy, "'0.weight' of object has no shape yet", "Run one batch first"),
        (lazy_statistics, "'1.running_mean' of object has no shape yet", "Run one batch first"),
        (scripted, "the network of object is a ScriptModule", "that was scripted or traced"),
        (partly_scripted, "'0' of object is a ScriptModule", "that was scripted or traced"),
        (on_meta, "'0.weight' of object is on the meta device", "Load the weights"),
        (partly_on_meta, "'1.weight' of object is on the meta device", "Load the weights"),
    ],
)
def test_a_network_without_values_or_python_modules_is_refused(make, rule, way_out, tmp_path):
    with pytest.raises(BackboneError) as caught:
        autotune.search(make(), (X, Y), budget="50%", out=str(tmp_path / "run"))
    message = str(caught.value)
    assert rule in message and way_out in message and "\n" not in message
    assert not (tmp_path / "run").exists()


def test_a_lazy_network_that_has_run_is_taken():
    network = lazy()
    network(X)
    assert describe(network, source="x", family="any").head == "2"


def test_a_preview_may_describe_a_network_on_the_meta_device():
    assert describe(on_meta(), source="x", family="any").fingerprint == ""


class Returning(nn.Module):
    def __init__(self, pack) -> None:
        super().__init__()
        self.body, self.head, self.pack = nn.Linear(8, 8), nn.Linear(8, 2), pack

    def forward(self, x):
        return self.pack(self.head(self.body(x)))


@pytest.mark.parametrize(
    ("pack", "words"),
    [
        (lambda y: (y, y), "a tuple of 2, as networks with several heads do. Return one tensor"),
        (lambda y: [y, y, y], "a list of 3"),
        (lambda y: {"out": y, "aux": y}, "a dict with the keys out, aux"),
        (lambda y: None, "a NoneType. Return a tensor, or an object whose attribute logits"),
        (lambda y: y[:, None], "(2, 1, 2)"),
    ],
)
def test_an_output_without_logits_is_refused_with_what_it_is(pack, words, tmp_path):
    with pytest.raises(BackboneError) as caught:
        autotune.search(Returning(pack), (X, Y), budget="50%", out=str(tmp_path / "run"))
    assert words in str(caught.value) and "\n" not in str(caught.value)


class Bare(nn.Module):
    """The logits come from a parameter that is in no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.weight = nn.Linear(8, 8), nn.Parameter(torch.ones(8, 2))

    def forward(self, x):
        return self.body(x) @ self.weight


class Odd(nn.Linear):
    def forward(self, x):
        raise KeyError("speaker")


def test_a_head_that_is_no_layer_and_an_odd_error_are_told_in_one_line(tmp_path):
    odd = nn.Sequential(Odd(8, 8), nn.Linear(8, 2))
    for network, words in ((Bare(), "put it into a layer such as nn.Linear"), (odd, "speaker")):
        with pytest.raises(AutotuneError) as caught:
            autotune.search(network, (X, Y), budget="50%", out=str(tmp_path / "run"))
        assert words in str(caught.value) and "\n" not in str(caught.value)


class Clipping(Returning):
    def forward(self, x):
        self.body.weight.data.clamp_(-0.1, 0.1)
        return super().forward(x)


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (Returning(Tensor.squeeze), "which gives (2,). Use flatten(1) instead of squeeze()"),
        (Returning(nn.BatchNorm1d(2, track_running_stats=False)), "an error (Expected more than 1"),
        (Clipping(lambda y: y), "this network's changes body.weight. Change them outside of"),
    ],
)
def test_a_forward_pass_that_training_would_trip_over_is_refused(network, words, tmp_path):
    weight = network.body.weight.detach().clone()
    with pytest.raises(BackboneError) as caught:
        autotune.search(network, (X, Y), budget="50%", out=str(tmp_path / "run"), head="head")
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert torch.equal(network.body.weight, weight)
