"""Units: every parameter in exactly one, in depth order."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn

from autotune.backbones import load_backbone
from autotune.backbones.base import Backbone, describe
from autotune.backbones.units import find_units, is_norm
from autotune.candidates import find_candidates
from autotune.config import load_space
from autotune.errors import SpaceError
from autotune.plan import Choice

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")


def meta(name: str) -> Backbone:
    return load_backbone(f"torchvision:{name}", shapes_only=True)


def backbone_of(*layers: tuple[str, nn.Module]) -> Backbone:
    return describe(nn.Sequential(OrderedDict(layers)), source="test", family="any")


def assert_partition(backbone: Backbone, units) -> None:
    assert [p for unit in units for p in unit.parameters] == list(backbone.parameters())


@pytest.fixture(scope="module")
def resnet50() -> Backbone:
    return meta("resnet50")


def test_resnet50_has_its_published_costs(resnet50):
    space = load_space("resnet")
    units = find_units(resnet50, space.units.block)
    candidates = find_candidates(resnet50.network, units, space)
    norms = [candidates[unit.name][Choice.of("subtune", what="norms")] for unit in units]
    assert sum(p.numel() for p in resnet50.parameters().values()) == 23_508_032
    assert candidates["layer1.1"][Choice.of("subtune", what="all")].parameters == 70_400
    assert sum(cost.parameters for cost in norms) == 53_120


@pytest.mark.parametrize("name", RESNETS)
@pytest.mark.parametrize("granularity", ["block", "layer"])
def test_every_resnet_is_partitioned_in_depth_order(name, granularity):
    backbone = meta(name)
    units = find_units(backbone, getattr(load_space("resnet").units, granularity))
    assert_partition(backbone, units)
    assert units.units[0].parameters[0] == "conv1.weight"
    assert units.units[0].name == ("stem" if granularity == "block" else "conv1")


def test_match_table_tells_what_each_pattern_took(resnet50):
    units = find_units(resnet50, load_space("resnet").units.block)
    stem, block = units.matches
    assert (stem.units, stem.modules, stem.parameters) == (1, 2, 9_408 + 128)
    assert (block.units, block.modules) == (16, 16 * 6 + 4 * 2)
    assert stem.parameters + block.parameters == 23_508_032


def test_layers_of_a_unit_are_named_once(resnet50):
    units = find_units(resnet50, load_space("resnet").units.block)
    assert units["stem"].layers() == ("conv1", "bn1")


def test_a_pattern_that_matches_nothing_is_refused(resnet50):
    patterns = {"stem": r"(?:conv1|bn1)\.", "block": r"(layer\d\.\d+)\.", "vit": r"(blocks\.\d)"}
    with pytest.raises(SpaceError, match=r"'vit' \(\(blocks.*matches none\. Mend it"):
        find_units(resnet50, patterns)


def test_parameters_in_no_unit_are_refused(resnet50):
    with pytest.raises(SpaceError, match=r"3 are in none, first 'conv1.weight'"):
        find_units(resnet50, {"block": r"(layer\d\.\d+)\."})


def test_the_first_pattern_decides():
    backbone = backbone_of(("a", nn.Linear(2, 2)), ("b", nn.Linear(2, 2)), ("fc", nn.Linear(2, 2)))
    units = find_units(backbone, {"early": r"a\.", "each": r"(\w)\."})
    assert [(unit.name, unit.layers()) for unit in units] == [("early", ("a",)), ("b", ("b",))]


@pytest.mark.parametrize("name", ["mobilenet_v2", "vit_b_16", "densenet121", "regnet_y_400mf"])
@pytest.mark.parametrize("granularity", ["block", "layer"])
def test_the_tree_partitions_networks_of_any_family(name, granularity):
    backbone = meta(name)
    units = find_units(backbone, "tree", granularity=granularity)
    total = sum(p.numel() for p in backbone.parameters().values())
    assert_partition(backbone, units)
    assert len(units.units) > 10
    assert [(m.units, m.parameters) for m in units.matches] == [(len(units.units), total)]


def test_the_tree_of_a_vit_has_its_blocks_and_embeddings():
    names = [unit.name for unit in find_units(meta("vit_b_16"), "tree")]
    layers = [f"encoder.layers.encoder_layer_{i}" for i in range(12)]
    assert names == ["class_token", "conv_proj", "encoder.pos_embedding", *layers, "encoder.ln"]


def test_containers_are_opened():
    block = [nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)) for _ in range(2)]
    backbone = backbone_of(("blocks", nn.ModuleList(block)), ("fc", nn.Linear(4, 2)))
    names = [unit.name for unit in find_units(backbone, "tree")]
    assert names == ["blocks.0.0", "blocks.0.2", "blocks.1.0", "blocks.1.2"]


def test_a_wrapper_that_holds_everything_is_opened(tiny_network):
    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = tiny_network

    backbone = describe(Wrapper(), source="test", family="any")
    units = find_units(backbone, "tree")
    assert_partition(backbone, units)
    assert [u.name for u in units] == ["module.conv", "module.first", "module.second"]


def test_a_lone_norm_joins_the_lone_layer_before_it():
    layers = {
        "conv": nn.Conv2d(1, 4, 3),
        "norm": nn.BatchNorm2d(4),
        "block": nn.TransformerEncoderLayer(4, 1, 4),
        "after": nn.LayerNorm(4),
        "fc": nn.Linear(4, 2),
    }
    units = find_units(backbone_of(*layers.items()), "tree", granularity="block")
    assert units["conv"].layers() == ("conv", "norm")
    assert units["after"].layers() == ("after",)


def test_by_layer_a_norm_stays_alone(tiny_backbone):
    units = find_units(tiny_backbone, "tree", granularity="layer")
    assert [u.name for u in units][:3] == ["conv", "norm", "first.conv"]


def test_direct_parameters_of_the_root_are_units(tiny_backbone):
    tiny_backbone.network.token = nn.Parameter(torch.zeros(3))
    units = find_units(tiny_backbone, "tree")
    assert_partition(tiny_backbone, units)
    assert units["token"].parameters == ("token",)


def test_tied_weights_are_counted_once():
    layers = {name: nn.Linear(4, 4, bias=False) for name in ("a", "b", "c")}
    layers["c"].weight = layers["a"].weight
    backbone = backbone_of(*layers.items(), ("fc", nn.Linear(4, 2)))
    units = find_units(backbone, "tree")
    assert [unit.parameters for unit in units] == [("a.weight",), ("b.weight",)]
    assert units.matches[0].parameters == 32


def test_a_class_named_norm_with_a_kernel_is_no_norm():
    class NormedConv(nn.Conv2d):
        pass

    assert is_norm(nn.GroupNorm(2, 4))
    assert not is_norm(NormedConv(1, 1, 1))
