"""Units: every parameter in exactly one, in depth order."""

from __future__ import annotations

from collections import OrderedDict
from functools import cache

import pytest
import torch
from torch import nn
from torchvision import models

from autotune.backbones import load_backbone
from autotune.backbones.base import Backbone, describe
from autotune.backbones.sources.torchvision import FAMILIES
from autotune.backbones.units import Units, find_units, is_norm
from autotune.deltas.candidates import find_candidates
from autotune.errors import SpaceError
from autotune.problem.plan import Choice
from autotune.run.settings import load_space

MEMBERS = [
    "builtin:digits",
    *(f"torchvision:{n}" for n in models.list_models(models) if n.startswith(tuple(FAMILIES))),
]
"""Every network that has units by a table."""


@cache
def known(source: str) -> Backbone:
    return load_backbone(source, shapes_only=True)


def meta(name: str) -> Backbone:
    return known(f"torchvision:{name}")


def units_of(backbone: Backbone, granularity: str) -> Units:
    return find_units(backbone, getattr(load_space(backbone.family).units, granularity))


def stages_of(backbone: Backbone) -> dict[str, tuple[str, ...]]:
    """Stage → parameters; `SpaceError` for a pattern that matches nothing."""
    rest = {"in no stage": "."}
    units = find_units(backbone, {**load_space(backbone.family).units.stage, **rest})
    return {unit.name: unit.parameters for unit in units if unit.name not in rest}


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


@pytest.mark.parametrize("source", MEMBERS)
@pytest.mark.parametrize("granularity", ["block", "layer"])
def test_every_member_of_a_family_is_partitioned_in_depth_order(source, granularity):
    backbone = known(source)
    assert backbone.family != "any"
    assert_partition(backbone, units_of(backbone, granularity))


@pytest.mark.parametrize("source", MEMBERS)
def test_a_unit_named_as_a_module_is_that_module(source):
    backbone = known(source)
    modules = dict(backbone.network.named_modules())
    units = {(g, u.name): u.parameters for g in ("block", "layer") for u in units_of(backbone, g)}
    units |= {("stage", stage): parameters for stage, parameters in stages_of(backbone).items()}
    for (_, name), parameters in units.items():
        if name in modules:
            held = modules[name].named_parameters(prefix=name)
            assert [p for p, _ in held] == list(parameters)


@pytest.mark.parametrize("source", MEMBERS)
def test_a_stage_is_a_run_of_whole_blocks(source):
    backbone = known(source)
    order, blocks = list(backbone.parameters()), units_of(backbone, "block")
    stages = stages_of(backbone)
    assert not {"network", *(unit.name for unit in blocks)} & set(stages)
    for parameters in stages.values():
        start = order.index(parameters[0])
        assert order[start : start + len(parameters)] == list(parameters)
        inside = [unit for unit in blocks if set(unit.parameters) & set(parameters)]
        assert [p for unit in inside for p in unit.parameters] == list(parameters)


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("mobilenet_v2", (3, 6, 13, 17)),
        ("mobilenet_v3_large", (3, 6, 8, 15)),
        ("mobilenet_v3_small", (3, 6, 8, 11)),
    ],
)
def test_mobilenets_stages_end_where_they_should(name, ends):
    stages = stages_of(meta(name))
    assert list(stages) == ["stage1", "stage2", "stage3", "stage4"]
    lasts = [p.split(".")[:2] for p in (parameters[-1] for parameters in stages.values())]
    assert lasts == [["features", str(end)] for end in ends]


def test_stages_of_one_member_of_each_other_family():
    odd = [f"features.{i}" for i in (1, 3, 5, 7)]
    assert list(stages_of(known("builtin:digits"))) == ["layer1", "layer2", "layer3"]
    assert list(stages_of(meta("resnet18"))) == ["layer1", "layer2", "layer3", "layer4"]
    assert list(stages_of(meta("convnext_tiny"))) == list(stages_of(meta("swin_t"))) == odd
    assert list(stages_of(meta("efficientnet_b0"))) == [f"features.{i}" for i in range(1, 8)]
    assert list(stages_of(meta("efficientnet_v2_s"))) == [f"features.{i}" for i in range(1, 7)]
    assert list(stages_of(meta("vit_b_16"))) == ["encoder.layers"]


@pytest.mark.parametrize(
    ("name", "unit", "size"),
    [
        ("mobilenet_v2", "features.18", 320 * 1280 + 2 * 1280),
        ("mobilenet_v3_small", "classifier.0", 576 * 1024 + 1024),
        ("convnext_tiny", "features.1.0", 96 + (49 + 1) * 96 + 2 * 96 + 2 * 96 * 384 + 384 + 96),
        ("convnext_tiny", "features.2", 2 * 96 + 4 * 96 * 192 + 192),
        ("densenet121", "stem", 3 * 49 * 64 + 2 * 64),
        ("densenet121", "features.denseblock1.denselayer1", 128 + 64 * 128 + 256 + 9 * 128 * 32),
        ("densenet121", "features.transition1", 2 * 256 + 256 * 128),
        ("vit_b_16", "encoder.layers.encoder_layer_3", 7_087_872),
        ("vit_b_16", "encoder.pos_embedding", 197 * 768),
        ("swin_t", "features.2", 2 * 384 + 384 * 192),
        ("swin_v2_t", "features.2", 2 * 192 + 384 * 192),
    ],
)
def test_units_have_their_known_sizes(name, unit, size):
    parameters = meta(name).parameters()
    names = units_of(meta(name), "block")[unit].parameters
    assert sum(parameters[p].numel() for p in names) == size


@pytest.mark.parametrize(
    ("name", "total"),
    [
        ("mobilenet_v2", 2_223_872),
        ("convnext_tiny", 28_589_128 - 769_000),
        ("densenet121", 6_953_856),
        ("efficientnet_b0", 4_007_548),
        ("vit_b_16", 85_798_656),
        ("swin_t", 28_288_354 - 769_000),
    ],
)
def test_a_head_is_in_no_unit(name, total):
    assert sum(match.parameters for match in units_of(meta(name), "block").matches) == total


def test_norms_of_a_vit_are_those_of_its_blocks_and_the_last():
    backbone, space = meta("vit_b_16"), load_space("vit")
    candidates = find_candidates(backbone.network, units_of(backbone, "block"), space)
    norms = {unit: c.get(Choice.of("subtune", what="norms")) for unit, c in candidates.items()}
    costs = {unit: cost.parameters for unit, cost in norms.items() if cost}
    assert costs.pop("encoder.ln") == 2 * 768
    assert list(costs.values()) == [4 * 768] * 12


def test_by_layer_what_is_no_weight_has_a_unit():
    vit, swin = (units_of(meta(name), "layer") for name in ("vit_b_16", "swin_v2_t"))
    attention = vit["encoder.layers.encoder_layer_0.self_attention"]
    names = ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")
    assert attention.parameters == tuple(f"{attention.name}.{name}" for name in names)
    assert vit["class_token"].parameters == ("class_token",)
    assert swin["features.1.0.attn.logit_scale"].layers() == ("features.1.0.attn",)
    assert swin["features.1.0.attn.cpb_mlp.0"].layers() == ("features.1.0.attn.cpb_mlp.0",)


def test_match_table_reports_what_each_pattern_took(resnet50):
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
    with pytest.raises(SpaceError, match=r"'vit' \(\(blocks.*matches none\. Correct it"):
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
