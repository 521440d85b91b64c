"""The head is the layer that produces the logits; a new one differs in its outputs alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

from autotune.backbones.base import describe
from autotune.backbones.heads.copies import new_head
from autotune.backbones.heads.finding import find_head
from autotune.backbones.inputs import InputDescription
from autotune.deltas.seeding import seeded
from autotune.errors import BackboneError

ROWS = InputDescription(shape=(8,), dtype="float32")
X = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))


def body() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU())


class Net(nn.Module):
    """A body, a layer `fc`, and another one that is registered around them."""

    def __init__(self, *, first: bool = False, aux: bool = False, norm: bool = False) -> None:
        super().__init__()
        if first:
            self.fc = nn.Linear(16, 4)
        self.body = body()
        if not first:
            self.fc = nn.Linear(16, 4)
        self.aux = nn.Linear(16, 4) if aux else None
        self.projection = nn.Sequential(nn.LayerNorm(16)) if norm else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x)
        return self.fc(h) + self.aux(h) if self.aux and self.training else self.fc(h)


class Scaled(Net):
    """Parameters of the network itself: one in use behind the head, and one that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.unused = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(64))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * super().forward(x).flatten(1)


class Twice(Net):
    def __init__(self) -> None:
        super().__init__(aux=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x)
        return (self.fc(h) + self.aux(h)) / 2


class Tokens(nn.Module):
    """A convolutional head whose outputs are pooled afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.stem = nn.Conv1d(16, 4, 1), nn.Conv1d(1, 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.stem(x[:, None]).relu()).mean(-1)


class Odd(Net):
    """Refuses examples that are random."""

    def forward(self, x: Tensor) -> Tensor:
        if not (x == 0).all():
            raise KeyError("no example")
        return super().forward(x)


@pytest.mark.parametrize(
    "network",
    [
        Net(),
        Net(first=True),
        Net(aux=True),
        Net(norm=True),
        Scaled(),
        Tokens(),
        Net(first=True).requires_grad_(False),
    ],
    ids=["last", "first", "auxiliary", "norm-behind", "scaled", "convolution", "frozen"],
)
def test_the_head_is_the_layer_that_produces_the_logits(network):
    flags = [p.requires_grad for p in network.parameters()]
    modes = [m.training for m in network.modules()]
    assert find_head(network, X) == "fc"
    assert describe(network, source="net", family="any", input=ROWS).head == "fc"
    assert [p.requires_grad for p in network.parameters()] == flags
    assert [m.training for m in network.modules()] == modes
    assert not any(m._forward_hooks for m in network.modules())


def test_two_heads_are_named_and_one_of_them_can_be_chosen():
    with pytest.raises(BackboneError, match=r"one head, the logits come from fc, aux\. Name"):
        find_head(Twice(), X)
    assert describe(Twice(), source="net", family="any", head="aux", input=ROWS).head == "aux"


def test_without_inputs_it_is_the_last_layer_that_is_registered():
    assert find_head(Net(norm=True)) == "fc"
    assert find_head(Odd(), X) == "fc"
    assert find_head(nn.Sequential(nn.LayerNorm(3), nn.Bilinear(3, 3, 2), nn.Softmax(1))) == "1"
    with pytest.raises(BackboneError, match="the network itself is a LayerNorm"):
        find_head(nn.LayerNorm(3))


def test_a_head_has_parameters():
    network = nn.Sequential(nn.Linear(8, 4), nn.Softmax(1))
    with pytest.raises(BackboneError, match=r"'1' is a Softmax\. Name the layer with --head"):
        describe(network, source="net", family="any", head="1")


class Cosine(nn.Linear):
    """As for faces: outputs are cosines, and a temperature is learned."""

    def __init__(self, n: int, classes: int, *, by_class: bool = False) -> None:
        super().__init__(n, classes, bias=False)
        self.temperature = nn.Parameter(torch.full((classes,) if by_class else (), 10.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.temperature * F.linear(F.normalize(x), F.normalize(self.weight))


HEADS = {
    "linear": lambda: nn.Linear(6, 8),
    "no bias": lambda: nn.Linear(6, 8, bias=False),
    "half": lambda: nn.Linear(6, 8, dtype=torch.bfloat16),
    "cosine": lambda: Cosine(6, 8),
    "convolution": lambda: nn.Conv2d(
        6, 8, 3, stride=2, padding=2, dilation=2, groups=2, padding_mode="circular"
    ),
    "1d": lambda: nn.Conv1d(6, 8, 3, bias=False),
    "weight norm": lambda: parametrizations.weight_norm(nn.Linear(6, 8)),
}


def examples(head: nn.Module) -> Tensor:
    sizes = {nn.Conv2d: (9, 9), nn.Conv1d: (9,)}
    places = next((size for kind, size in sizes.items() if isinstance(head, kind)), ())
    return torch.randn(3, 6, *places).to(next(head.parameters()).dtype)


@pytest.mark.parametrize("name", HEADS)
def test_a_new_head_differs_in_its_number_of_outputs_alone(name):
    old = HEADS[name]().requires_grad_(False)
    new = new_head(old, 4)
    x = examples(old)
    assert new(x).shape == (3, 4, *old(x).shape[2:]) and new(x).dtype == old(x).dtype
    assert type(new).__name__ == type(old).__name__
    assert all(p.requires_grad for p in new.parameters())
    assert parametrize.is_parametrized(new) == parametrize.is_parametrized(old)
    assert {n for n, _ in new.named_parameters()} == {n for n, _ in old.named_parameters()}
    again = new_head(new, 8)
    again.load_state_dict(old.state_dict())
    torch.testing.assert_close(again(x), old(x))


def test_a_plain_head_starts_as_torch_starts_it():
    old = nn.Linear(6, 8)
    with seeded(3, "head"):
        made = nn.Linear(6, 4)
    with seeded(3, "head"):
        new = new_head(old, 4)
    assert torch.equal(made.weight, new.weight) and torch.equal(made.bias, new.bias)


class Shifted(nn.Module):
    """Parametrization with a tensor of the size of the weight."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros_like(weight))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.shift


def shifted(layer: nn.Module) -> nn.Module:
    return parametrize.register_parametrization(layer, "weight", Shifted(layer.weight))


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (Cosine(6, 8, by_class=True), "'temperature' has one value per output"),
        (shifted(nn.Linear(6, 8)), "Shifted has tensors"),
        (nn.Conv1d(6, 9, 3, groups=3), "a multiple of its 3 groups, the task has 4 classes"),
        (nn.LayerNorm(8), r"LayerNorm cannot: it is no Linear or convolution\. .*--head-factory"),
    ],
    ids=["one per class", "spectral norm", "groups", "class"],
)
def test_a_head_that_cannot_be_copied_is_refused_in_one_line(head, reason):
    with pytest.raises(BackboneError, match=reason) as caught:
        new_head(head, 4)
    assert "\n" not in str(caught.value)
