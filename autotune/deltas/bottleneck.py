"""Building blocks of added paths; they work on channels, whichever dimension holds them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autotune.deltas.nested import Nested


class Bottleneck(Nested):
    """up(GELU(down(x))) on the channels of x at dimension `channel`, zero at start."""

    def __init__(self, inputs: int, width: int, outputs: int, channel: int) -> None:
        super().__init__()
        self.channel = channel
        self.down = nn.Linear(inputs, width)
        self.up = nn.Linear(width, outputs, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        down, bias = self.down.weight[: self.size], self.down.bias[: self.size]
        inside = F.gelu(F.linear(x.movedim(self.channel, -1), down, bias))
        return F.linear(inside, self.up.weight[:, : self.size]).movedim(-1, self.channel)


def as_places(x: Tensor, channel: int, places: tuple[int, ...]) -> Tensor:
    """Average or repeat the positions of x (height and width, or tokens) to the shape `places`.

    (n, ..., channels, ...) with the channels at `channel` → (n, *places, channels). Without
    `places`, the mean over positions (n, channels).
    """
    last = x.movedim(channel, -1)
    if tuple(last.shape[1:-1]) == places:
        return last
    if not places:
        return last.flatten(1, -2).mean(1)
    if last.ndim == 2:
        return last.view(len(last), *[1] * len(places), -1).expand(-1, *places, -1)
    first = last.movedim(-1, 1)
    if len(places) == first.ndim - 2 == 2:
        return F.adaptive_avg_pool2d(first, (places[0], places[1])).movedim(1, -1)
    pooled = F.adaptive_avg_pool1d(first.flatten(2), torch.Size(places).numel())
    spread: Tensor = pooled.movedim(1, -1).unflatten(1, places)
    return spread


def as_channels(x: Tensor, width: int) -> Tensor:
    """Append channels of zeros to x (..., channels), or drop its last ones, to get `width`."""
    return F.pad(x, (0, width - x.shape[-1]))
