"""What flows through a network, the way through a unit, and the spans beside units."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from autotune.backbones import load_backbone
from autotune.backbones.base import describe
from autotune.backbones.dataflow import trace
from autotune.backbones.inputs import InputDescription
from autotune.backbones.routes import Routes
from autotune.backbones.spans import NETWORK, with_spans
from autotune.backbones.units import find_units
from autotune.deltas.site import Site
from autotune.run.settings import load_space

PICTURE = InputDescription(shape=(1, 6, 6))
EXITS = {
    "resnet50": ("layer3", (1024, 14, 14), 1024),
    "swin_t": ("features.3", (28, 28, 192), 192),
    "convnext_tiny": ("features.5", (384, 14, 14), 384),
    "densenet121": ("features.denseblock2", (512, 28, 28), 512),
    "mobilenet_v2": ("stage2", (32, 28, 28), 32),
    "efficientnet_b0": ("features.3", (40, 28, 28), 40),
    "vit_b_16": ("encoder.layers", (197, 768), 768),
}


def spans_of(backbone, input):
    space = load_space(backbone.family)
    flow = trace(backbone.network, input)
    return with_spans(backbone, find_units(backbone, space.units.block), space.units, flow)


def test_a_trace_leaves_modes_and_hooks_alone(tiny_network):
    tiny_network.train()
    tiny_network.first.eval()
    before = [(m.training, len(m._forward_hooks)) for m in tiny_network.modules()]
    trace(tiny_network, PICTURE)
    assert [(m.training, len(m._forward_hooks)) for m in tiny_network.modules()] == before


def test_a_trace_reports_shapes_and_channels_and_what_is_called_twice_is_left_out():
    layer = nn.Linear(5, 5)
    network = nn.Sequential(nn.Linear(3, 5), layer, layer, nn.Linear(5, 2))
    flow = trace(network, InputDescription(shape=(7, 3)))
    assert [call.path for call in flow] == ["", "0", "3"]
    point = flow.get("0").output
    assert (point.shape, point.width, point.places) == ((7, 5), 5, (7,))
    assert flow.get("1") is None


def test_the_way_through_several_modules_goes_from_first_to_last(tiny_network):
    routes = Routes(tiny_network, trace(tiny_network, PICTURE))
    route = routes.through(["conv.weight", "conv.bias", "norm.weight", "norm.bias"])
    assert [call.path for call in route.outer] == ["conv", "norm"]
    assert (route.entry.shape, route.exit.shape) == ((1, 6, 6), (4, 4, 4))


@pytest.mark.parametrize("name", EXITS)
def test_every_family_has_stages_with_their_features_and_the_whole_network(name):
    backbone = load_backbone(f"torchvision:{name}", shapes_only=True)
    units = spans_of(backbone, backbone.input)
    stage, shape, width = EXITS[name]
    exit = Site.of(backbone.network, units[stage], units.flow).exit
    network = Site.of(backbone.network, units[NETWORK], units.flow)
    assert (exit.shape, exit.width) == (shape, width)
    assert network.entry.shape == (3, 224, 224)
    assert network.exit.is_input
    assert backbone.head.startswith(network.exit.path)
    assert len(network.levels) == (12 if name == "vit_b_16" else len(network.routes) - 1)


def test_spans_have_no_parameters_and_come_behind_the_units(tiny_backbone):
    units = spans_of(tiny_backbone, PICTURE)
    spans = [unit.name for unit in units if unit.is_span()]
    assert spans == [NETWORK]
    assert [unit.name for unit in units][-1] == NETWORK
    assert all(unit.parameters == () for unit in units if unit.is_span())


def test_containers_of_units_are_the_stages_of_an_unknown_network():
    blocks = [nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(3)]
    network = nn.ModuleDict({"body": nn.Sequential(*blocks), "head": nn.Linear(4, 2)})
    network.forward = lambda x: network["head"](network["body"](x))
    backbone = describe(network, source="test", family="any")
    units = spans_of(backbone, InputDescription(shape=(4,)))
    assert "body" in [unit.name for unit in units if unit.is_span()]


def test_a_stage_with_the_name_of_a_unit_is_that_unit():
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(64, 2))
    backbone = describe(network, source="test", family="any")
    names = [unit.name for unit in spans_of(backbone, PICTURE)]
    assert len(names) == len(set(names))


def test_tokens_have_their_channels_last_and_convolutions_first():
    network = nn.Sequential(nn.Embedding(9, 6), nn.Linear(6, 9), nn.Flatten(), nn.Linear(45, 2))
    flow = trace(network, InputDescription(shape=(5,), dtype="int64"))
    assert flow.get("").input.dtype is torch.int64
    assert (flow.get("0").output.channel, flow.get("0").output.width) == (2, 6)
    moved = nn.Sequential(nn.Conv1d(6, 5, 1), nn.Flatten(), nn.Linear(40, 2))
    assert trace(moved, InputDescription(shape=(6, 8))).get("0").output.channel == 1


class Experts(nn.Module):
    """Sends each example through one of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.experts = nn.Linear(4, 4), nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        h = self.stem(x)
        out, choices = torch.zeros_like(h), (x[:, 0] > 0).long()
        for number, expert in enumerate(self.experts):
            rows = (choices == number).nonzero()[:, 0]
            if len(rows):
                out[rows] = expert(h[rows])
        return self.head(out)


def test_modules_that_get_a_part_of_the_examples_have_no_batch():
    flow = trace(Experts(), InputDescription(shape=(4,)))
    assert flow.get("stem").output.is_batched and flow.get("head").input.is_batched
    for number in range(2):  # the blank examples go to the first
        call = flow.get(f"experts.{number}")
        assert call is None or not (call.input.is_batched or call.output.is_batched)


class Folding(nn.Module):
    """Two tokens per example, which a layer sees as examples, or as the first dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.each, self.first = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.first(self.each(x.flatten(0, 1)).view(x.shape).transpose(0, 1)).mean(0)


def test_a_dimension_of_two_is_no_batch():
    flow = trace(Folding(), InputDescription(shape=(2, 4)))
    assert not flow.get("each").input.is_batched and not flow.get("first").input.is_batched
