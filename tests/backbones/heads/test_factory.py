"""A head factory makes heads of any class, for any number of classes."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autotune.backbones.base import Backbone
from autotune.backbones.heads.factory import load_head_factory, made_head
from autotune.backbones.heads.rounded import head_tensors, load_head, plain_head, trained_head
from autotune.errors import BackboneError, UnknownName

OLD = nn.Linear(6, 8).to(torch.bfloat16)


def of_both(old: nn.Linear, classes: int) -> nn.Module:
    return nn.Linear(old.in_features, classes)


class Prototypes(nn.Module):
    def __init__(self, classes: int, width: int = 6) -> None:
        super().__init__()
        self.points = nn.Parameter(torch.randn(classes, width))

    def forward(self, x: Tensor) -> Tensor:
        return -(x[:, None] - self.points).square().sum(-1)


@pytest.mark.parametrize(
    "factory",
    [of_both, Prototypes, partial(nn.Linear, 6), lambda classes: nn.Linear(6, classes)],
    ids=["both", "class", "partial", "lambda"],
)
def test_a_head_has_the_dtype_of_the_former_one_and_trains(factory):
    head = made_head(factory, OLD, 3)
    assert {p.dtype for p in head.parameters()} == {torch.bfloat16}
    assert all(p.requires_grad for p in head.parameters())
    assert head(torch.randn(2, 6).to(torch.bfloat16)).shape == (2, 3)


def test_heads_share_nothing_with_each_other_or_with_the_former_one():
    only = nn.Linear(6, 3)
    first, second = made_head(lambda classes: only, OLD, 3), made_head(lambda n: only, OLD, 3)
    assert first.weight.data_ptr() != second.weight.data_ptr()
    before = OLD.weight.clone()

    def spoil(old: nn.Module, classes: int) -> nn.Module:
        with torch.no_grad():
            old.weight.zero_()
        return old

    made_head(spoil, OLD, 3)
    assert torch.equal(OLD.weight, before)


def broken(classes: int) -> nn.Module:
    raise KeyError("no width\nat all")


@pytest.mark.parametrize(
    ("factory", "reason"),
    [
        (broken, "it raised KeyError: .*no width.*Call it directly"),
        (lambda n: None, "it returned a NoneType"),
        (lambda n: nn.Identity(), "it returned a Identity without any"),
    ],
)
def test_a_factory_that_returns_no_head_is_told_in_one_line(factory, reason):
    with pytest.raises(BackboneError, match=reason) as caught:
        made_head(factory, OLD, 3)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "error", "reason"),
    [
        ("heads.py", UnknownName, "A head factory is written MODULE-or-FILE:FUNCTION"),
        ("absent.py:make", BackboneError, "A head factory must exist, 'absent.py' does not"),
        ("heads.py:made", UnknownName, "Did you mean 'make'"),
    ],
)
def test_a_factory_that_cannot_be_imported_is_told(tmp_path, monkeypatch, name, error, reason):
    (tmp_path / "heads.py").write_text("def make(n):\n    return n\n")
    monkeypatch.chdir(tmp_path)
    assert load_head_factory("heads.py:make")(3) == 3
    with pytest.raises(error, match=reason):
        load_head_factory(name)


def test_a_deep_head_of_low_precision_trains_in_float32():
    def make(classes: int) -> nn.Module:
        return nn.Sequential(nn.LayerNorm(6), nn.Sequential(nn.Linear(6, classes)))

    network = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 8)).to(torch.bfloat16)
    backbone = Backbone(network, "net", "any", "1", head_factory=make)
    bare = backbone.new_head(3)
    x = torch.randn(2, 6).to(torch.bfloat16)
    head = trained_head(backbone.new_head(3))
    assert {p.dtype for p in head.parameters()} == {torch.float32}
    tensors: dict[str, Any] = head_tensors(head)
    assert set(tensors) == set(bare.state_dict())
    load_head(again := trained_head(backbone.new_head(3)), tensors)
    assert torch.equal(again(x), head(x))
    expected = head(x)
    bare.load_state_dict(plain_head(head).state_dict())
    assert torch.equal(bare(x), expected) and expected.dtype == torch.bfloat16
