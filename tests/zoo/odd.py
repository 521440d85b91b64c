"""Small networks with something unusual, each of a kind that people have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint

from .harness import Case

TABLE = torch.randn(48, 8, generator=torch.Generator().manual_seed(0))
SEQUENCES = torch.randn(48, 5, 8, generator=torch.Generator().manual_seed(1))
IMAGES = torch.randn(48, 3, 8, 8, generator=torch.Generator().manual_seed(2))
TOKENS = torch.randint(0, 20, (48, 6), generator=torch.Generator().manual_seed(3))


def layers(width: int = 16, inputs: int = 8) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())


class Net(nn.Module):
    """A body and a head; subclasses change one thing."""

    def __init__(self, inputs: int = 8, width: int = 16, classes: int = 3) -> None:
        super().__init__()
        self.body, self.head = layers(width, inputs), nn.Linear(width, classes)

    def forward(self, x: Any) -> Any:
        return self.head(self.body(x))


class LastToken(Net):
    """Picks a token by row numbers, as decoder classifiers do."""

    def forward(self, x: Tensor) -> Tensor:
        logits = self.head(self.body(x))
        return logits[torch.arange(x.shape[0]), -1]  # type: ignore[no-any-return]


class FirstPadding(nn.Module):
    """Picks the token before the first padding, which differs from example to example."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.body, self.head = nn.Embedding(20, 8), layers(), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        at = (x == 0).int().argmax(1) - 1
        return self.head(self.body(self.tokens(x)))[torch.arange(x.shape[0]), at]  # type: ignore[no-any-return]


class Tied(nn.Module):
    """The head is the embedding, and a condition is followed operator by operator."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.body = nn.Embedding(20, 16), layers(16, 16)
        self.head = nn.Linear(16, 20, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, x: Tensor) -> Tensor:
        h = self.tokens(x).mean(1)
        return self.head(self.body(h + 0 if x.shape[1] > 5 else h))  # type: ignore[no-any-return]


class ActivatedNorm(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


def images(norm: type[nn.Module] = nn.BatchNorm2d, head: nn.Module | None = None) -> nn.Sequential:
    parts = [nn.Conv2d(3, 8, 3, padding=1, bias=False), norm(8)]  # type: ignore[call-arg]
    parts += [nn.Conv2d(8, 8, 3, padding=1, bias=False), norm(8)]  # type: ignore[call-arg]
    body = nn.Sequential(*parts)
    ends = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)] if head is None else [head]
    return nn.Sequential(body, *ends)


def hooked() -> nn.Module:
    network = images()
    network[0][1].register_forward_hook(lambda module, args, output: output.relu())
    return network


class Cosine(nn.Linear):
    """Linear layer on the unit sphere."""

    def forward(self, x: Tensor) -> Tensor:
        return 5 * F.linear(F.normalize(x), F.normalize(self.weight), self.bias)


class CosineHead(Net):
    def __init__(self) -> None:
        super().__init__()
        self.head = Cosine(16, 3)


class ConvolutionalHead(nn.Module):
    """The head is a dilated, grouped convolution with circular padding."""

    def __init__(self) -> None:
        super().__init__()
        self.body = images()[0]
        options = {"padding": 2, "dilation": 2, "padding_mode": "circular"}
        self.head = nn.Conv2d(8, 4, 3, **options)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x)).mean((2, 3))  # type: ignore[no-any-return]


class HeadFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.classifier, self.body = nn.Linear(16, 3), layers()

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.body(x))  # type: ignore[no-any-return]


class AuxiliaryLast(Net):
    """An auxiliary head is registered last and takes part only in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.auxiliary = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Any:
        h = self.body(x)
        return (self.head(h), self.auxiliary(h)) if self.training else self.head(h)


class Counting(Net):
    """Forward writes buffers: a counter and a running mean of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, x: Tensor) -> Any:
        self.calls += 1
        self.mean.lerp_(x.mean(0), 0.1)
        return super().forward(x)


class Renormed(nn.Module):
    """Looking up writes the rows of an embedding with a largest norm."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.body = nn.Embedding(20, 8, max_norm=1.0), layers()
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.tokens(x).mean(1)))  # type: ignore[no-any-return]


def spectral() -> nn.Module:
    network = Net()
    network.body[2] = nn.utils.spectral_norm(network.body[2])
    network.body[0] = parametrizations.spectral_norm(network.body[0])
    return network


def weight_normed() -> nn.Module:
    network = Net()
    network.body[0] = parametrizations.weight_norm(network.body[0])
    network.body[2] = nn.utils.weight_norm(network.body[2])
    network.head = parametrizations.weight_norm(network.head)
    return network


class Unused(Net):
    """A mask token, a decoder and a pooler that never run."""

    def __init__(self) -> None:
        super().__init__()
        self.mask = nn.Parameter(torch.zeros(8))
        self.decoder, self.pooler = layers(), nn.Linear(16, 16)


class Exact(Net):
    """The gradient of a layer is exactly zero at the start, although it is used."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.extra = nn.Parameter(torch.zeros(())), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Any:
        h = self.body(x)
        return self.head(h + self.gate * self.extra(h))


def protected() -> nn.Module:
    network = Net()
    network.body[0].requires_grad_(False)
    return network


class Autocast(Net):
    def forward(self, x: Tensor) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            h = self.body(x)
        return self.head(h.float())


class Passed(nn.Module):
    """A block that looks at its input and gets an object from its parent."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 8)

        def forward(self, x: Tensor, state: object = None) -> Tensor:
            if x.sum() > 0:
                x = x + 0
            return self.fc(x)  # type: ignore[no-any-return]

    def __init__(self) -> None:
        super().__init__()
        self.block, self.head = self.Block(), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(x, state=object()))  # type: ignore[no-any-return]


class Sliced(nn.Module):
    """Runs a slice of its blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != 8:
            raise ValueError("eight features")
        for block in self.blocks[:3]:
            x = block(x).relu()
        return self.head(x)  # type: ignore[no-any-return]


class IntegerParameter(Net):
    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.tensor([1]), requires_grad=False)

    def forward(self, x: Tensor) -> Any:
        return super().forward(x + self.shift)


class ComplexParameter(Net):
    def __init__(self) -> None:
        super().__init__()
        self.filter = nn.Parameter(torch.ones(5, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Any:
        return super().forward(torch.fft.irfft(torch.fft.rfft(x) * self.filter, n=8))


class Checkpointed(Net):
    def forward(self, x: Tensor) -> Any:
        return self.head(checkpoint(self.body, x, use_reentrant=False))


class Residual(Net):
    """Adds in place."""

    def forward(self, x: Tensor) -> Any:
        h = self.body[0](x)
        h += 1
        return self.head(self.body[1:](h))


class Dropped(Net):
    """Dropout by function and by module, behind a condition."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Any:
        if x.shape[-1] != 8:
            raise ValueError("eight features")
        return self.head(F.dropout(self.dropout(self.body(x)), 0.2, self.training))


class MixesBatch(Net):
    """Normalises by the batch in evaluation mode, too: nothing behind it can be kept."""

    def forward(self, x: Tensor) -> Any:
        h = self.body[0](x)
        return self.head(self.body[2]((h - h.mean(0)).relu()).relu())


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
    return nn.Sequential(nn.TransformerEncoder(layer, 2), Mean(), nn.Linear(8, 3))


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(8, 12, batch_first=True), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])  # type: ignore[no-any-return]


class Distance(nn.Module):
    """Head of no common class: negative squared distances to points."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.points = nn.Parameter(torch.randn(classes, 16))

    def forward(self, x: Tensor) -> Tensor:
        return -(x[:, None] - self.points).square().mean(-1)


class Distances(Net):
    def __init__(self) -> None:
        super().__init__()
        self.head = Distance(7)


def several_layers(old: nn.Linear, classes: int) -> nn.Module:
    return nn.Sequential(nn.LayerNorm(old.in_features), nn.Linear(old.in_features, classes))


class TwoHeads(Net):
    """Distilled: the answer is the mean of two heads, one of which stays frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x)
        return (self.head(h) + self.second(h)) / 2


class InMapping(Net):
    """Returns a mapping with the logits."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = self.body(x)
        return {"hidden": h, "logits": self.head(h)}


class TailFirst(nn.Module):
    """Modules are registered in another order than that in which they run."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.tail = nn.Linear(16, 3), nn.Linear(16, 16)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(16, 16), nn.ReLU()) for _ in range(3)])
        self.stem = nn.Linear(8, 16)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        for block in self.blocks:
            h = block(h) + h
        return self.head(self.tail(h))  # type: ignore[no-any-return]


class SparseWords(nn.Module):
    """An embedding whose gradients are sparse."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.EmbeddingBag(20, 8, sparse=True)
        self.body, self.head = layers(), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.tokens(x)))  # type: ignore[no-any-return]


def pruned() -> nn.Module:
    network = Net()
    prune.l1_unstructured(network.body[2], "weight", 0.5)
    return network


def seeded(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        torch.manual_seed(0)
        return make().eval()

    return build


ODD = {
    name: Case(seeded(make), inputs, settings=dict(*settings))
    for name, make, inputs, *settings in (
        ("picks the last token", LastToken, SEQUENCES),
        ("picks a token before padding", FirstPadding, TOKENS),
        ("head tied to the embedding", Tied, TOKENS),
        ("batch norm with an activation", lambda: images(ActivatedNorm), IMAGES),
        ("forward hook of the user's", hooked, IMAGES),
        ("cosine head", CosineHead, TABLE),
        ("convolutional head", ConvolutionalHead, IMAGES),
        ("head registered first", HeadFirst, TABLE),
        ("auxiliary head", AuxiliaryLast, TABLE),
        ("forward writes buffers", Counting, TABLE),
        ("embedding with a largest norm", Renormed, TOKENS),
        ("spectral norm", spectral, TABLE),
        ("weight norm", weight_normed, TABLE),
        ("unused parameters", Unused, TABLE),
        ("gradient of exactly zero", Exact, TABLE),
        ("frozen by the user", protected, TABLE),
        ("autocast inside", Autocast, TABLE),
        ("looks at its input", Passed, TABLE),
        ("slice of a list", Sliced, TABLE),
        ("integer parameter", IntegerParameter, TABLE),
        ("complex parameter", ComplexParameter, TABLE),
        ("checkpointing", Checkpointed, TABLE),
        ("in-place addition", Residual, TABLE),
        ("dropout by function", Dropped, TABLE),
        ("mixes its batch", MixesBatch, TABLE),
        ("torch's encoder", encoder, SEQUENCES),
        ("recurrent", Recurrent, SEQUENCES),
        ("head of no common class", Distances, TABLE, {"head_factory": Distance}),
        ("head of several layers", Net, TABLE, {"head": "head", "head_factory": several_layers}),
        ("two heads", TwoHeads, TABLE, {"head": "head"}),
        ("logits in a mapping", InMapping, TABLE),
        ("registered in another order", TailFirst, TABLE),
        ("sparse gradients", SparseWords, TOKENS),
        ("pruned", pruned, TABLE),
    )
}
