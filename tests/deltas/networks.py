"""Small networks that methods are tried on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from autotune.backbones.sources.digits import Block


class Around(nn.Module):
    """A layer as `unit`, and a frozen parameter behind it."""

    def __init__(self, unit: nn.Module) -> None:
        super().__init__()
        self.unit = unit
        self.behind = nn.Parameter(torch.tensor([1.5]))

    def forward(self, x: Tensor) -> Tensor:
        return self.unit(x) * self.behind


class Tied(nn.Module):
    """Two layers that share one weight."""

    def __init__(self, first: nn.Module, second: nn.Linear) -> None:
        super().__init__()
        self.first, self.second = first, second
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).tanh())


class Attending(nn.Module):
    """Self-attention (n, tokens, 6), whichever dimension it takes for the batch."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.heads = nn.MultiheadAttention(**{"embed_dim": 6, "num_heads": 2, **options})

    def forward(self, x: Tensor) -> Tensor:
        if self.heads.batch_first:
            return self.heads(x, x, x, need_weights=False)[0]
        x = x.transpose(0, 1)
        return self.heads(x, x, x)[0].transpose(0, 1)


class Crossing(nn.Module):
    """Attention of (n, tokens, 6) to five tokens of width 4."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.heads = nn.MultiheadAttention(6, 2, batch_first=True, kdim=4, **options)
        self.register_buffer("memory", torch.randn(5, 4))

    def forward(self, x: Tensor) -> Tensor:
        memory = self.get_buffer("memory").expand(len(x), -1, -1)
        return self.heads(x, memory, value=memory)[0]


class Mlp(nn.Sequential):
    """The feed-forward part of a transformer."""


class Transformer(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self) -> None:
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(6), nn.LayerNorm(6)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.mlp = Mlp(nn.Linear(6, 9), nn.GELU(), nn.Linear(9, 6))

    def forward(self, x: Tensor) -> Tensor:
        y = self.ln1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.ln2(x))


class TwoDtypes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 4, dtype=torch.float64), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x.double()).float())


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(6, 5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(x)[0]


class Images(nn.Module):
    """Two convolutional stages of different shapes; (n, 2, 8, 8) → (n, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.first = nn.Sequential(Block(4, 4, 1), Block(4, 4, 1))
        self.second = nn.Sequential(Block(4, 6, 2))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(self.stem(x).relu()))
        return self.head(x.mean((2, 3)))


class WindowBlock(nn.Module):
    """On (n, height, width, channels), as Swin's."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mlp = Mlp(nn.Linear(width, 9), nn.GELU(), nn.Linear(9, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(self.norm(x))


class Merging(nn.Module):
    """A quarter of the places, twice the channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        corners = [x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
        return self.reduction(torch.cat(corners, -1))


class Windows(nn.Module):
    """Stages with the channels last; (n, 2, 10, 10) → (n, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 1)
        self.first = nn.Sequential(WindowBlock(4), WindowBlock(4))
        self.merging = Merging(4)
        self.second = nn.Sequential(WindowBlock(8))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.stem(x).permute(0, 2, 3, 1))
        return self.head(self.second(self.merging(x)).mean((1, 2)))


class Tokens(nn.Module):
    """Transformer blocks on what `stem` makes of the input, (n, tokens, 6) → (n, 3)."""

    def __init__(self, stem: nn.Module) -> None:
        super().__init__()
        self.stem, self.blocks = stem, nn.Sequential(Transformer(), Transformer())
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x))[:, 0])


class Frames(nn.Module):
    """Sound: (n, frames, 4) → (n, 3), convolutions over time."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(4, 6, 3, padding=1)
        self.second = nn.Conv1d(6, 5, 3, stride=2)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x.transpose(1, 2)).relu()).relu()
        return self.head(x.mean(2))


class Volumes(nn.Module):
    """Convolutions in three dimensions: (n, 1, 4, 4, 4) → (n, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv3d(1, 4, 3, padding=1)
        self.second = nn.Conv3d(4, 6, 2, stride=2)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x).relu()).relu()
        return self.head(x.mean((2, 3, 4)))


class InPlace(nn.Module):
    """Every stage begins with a ReLU that writes into what it takes; (n, 2, 8, 8) → (n, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 1)
        self.first = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3, padding=1))
        self.second = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(4, 6, 3, stride=2))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(self.stem(x)))
        return self.head(x.relu_().mean((2, 3)))


class ByName(nn.Module):
    """Calls its layers with named arguments; (n, 6) → (n, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(input=self.second(input=self.first(input=x).relu()).relu())


class Vectors(nn.Module):
    """Numbers in a row: (n, 6) → (n, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Sequential(nn.Linear(8, 5), nn.ReLU())
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x).tanh()))
