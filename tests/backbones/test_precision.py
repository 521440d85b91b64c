"""The dtype that a network takes, and heads that train in float32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autotune.backbones.base import describe
from autotune.backbones.heads.copies import new_head
from autotune.backbones.heads.rounded import head_tensors, load_head, plain_head, trained_head
from autotune.backbones.inputs import InputDescription, read_input
from autotune.backbones.precision import matched, trained_dtype

ROWS = InputDescription(shape=(8,))
IMAGES = InputDescription(size=(6, 6), mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
LOW = [torch.float16, torch.bfloat16]
DTYPES = [*LOW, torch.float32, torch.float64]


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))


class Mixed(nn.Module):
    """A float32 scale that is registered first, a body in bfloat16, and a head in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.body = nn.Linear(8, 4), nn.Linear(8, 8, dtype=torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).float())


@pytest.mark.parametrize("dtype", DTYPES)
def test_inputs_take_the_dtype_of_the_parameters(dtype):
    network = mlp().to(dtype)
    described = matched(ROWS, network)
    assert described.dtype == str(dtype).removeprefix("torch.")
    assert described.as_taken(torch.zeros(2, 8, dtype=torch.float64)).dtype == dtype


def test_in_a_mixed_network_the_first_layer_that_reads_the_input_decides():
    assert matched(ROWS, Mixed()).dtype == "bfloat16"


def test_integers_and_unknown_inputs_stay_as_they_are():
    tokens = InputDescription(shape=(8,), dtype="int64")
    assert matched(tokens, mlp().half()) is tokens
    assert matched(None, mlp()) is None
    assert tokens.as_taken(torch.zeros(2, 8, dtype=torch.int64)).dtype == torch.int64


def test_integer_and_complex_parameters_do_not_decide():
    network = mlp().half()
    network.phase = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    network.steps = nn.Parameter(torch.zeros(1, dtype=torch.int64), requires_grad=False)
    assert matched(ROWS, network).dtype == "float16"


@pytest.mark.parametrize("dtype", DTYPES)
def test_images_are_normalised_into_the_dtype(dtype):
    images = torch.randint(256, (2, 3, 6, 6)).byte()
    described = InputDescription(**{**vars(IMAGES), "dtype": str(dtype).removeprefix("torch.")})
    normalised = described.as_taken(images)
    assert normalised.dtype == dtype
    assert torch.allclose(normalised.float(), IMAGES.normalise(images), atol=0.03)
    assert read_input(described.to_json(), source="x") == described


def test_a_described_backbone_has_the_dtype_in_its_input():
    network = mlp().bfloat16()
    assert describe(network, source="x", family="any", input=ROWS).input.dtype == "bfloat16"


class Doubling(nn.Module):
    """A parametrization of the user's."""

    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def heads() -> list[Any]:
    computed = nn.utils.parametrize.register_parametrization(nn.Linear(8, 4), "weight", Doubling())
    return [nn.Linear(8, 4), nn.Linear(8, 4, bias=False), nn.Conv2d(8, 4, 1), computed]


@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize("old", heads(), ids=["linear", "no bias", "convolution", "parametrized"])
def test_a_low_head_trains_in_float32_and_computes_in_its_own_dtype(old, dtype):
    head = trained_head(new_head(old.to(dtype), 3))
    x = torch.randn(2, 8, *[1] * (old.weight.ndim - 2)).to(dtype)
    assert head(x).dtype == dtype
    assert {p.dtype for p in head.parameters()} == {torch.float32}
    assert {t.dtype for t in head_tensors(head).values()} == {torch.float32}
    head(x).float().square().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in head.parameters())


@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize("old", heads(), ids=["linear", "no bias", "convolution", "parametrized"])
def test_a_head_is_stored_in_float32_and_is_plain_again_with_equal_outputs(old, dtype):
    old = old.to(dtype)
    head, other = (trained_head(new_head(old, 3)) for _ in range(2))
    for parameter in head.parameters():
        parameter.data += 1e-4  # lost in half precision
    load_head(other, head_tensors(head))
    x = torch.randn(2, 8, *[1] * (old.weight.ndim - 2)).to(dtype)
    expected = head(x)
    assert torch.equal(other(x), expected)
    assert torch.equal(plain_head(other)(x), expected)
    assert {p.dtype for p in other.parameters()} == {dtype}
    assert list(other.state_dict()) == list(new_head(old, 3).state_dict())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_other_heads_stay_as_they_are(dtype):
    head = new_head(nn.Linear(8, 4, dtype=dtype), 3)
    before = dict(head.named_parameters())
    assert dict(plain_head(trained_head(head)).named_parameters()) == before
    assert list(head_tensors(head)) == ["weight", "bias"]
    assert trained_dtype(dtype) == dtype
