"""A product B·A beside a layer: in training B·(A·x) is added to what the frozen layer gives.

So the gradient of the whole kernel, a third of a layer's arithmetic, is never made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autotune.deltas.factors import Product
from autotune.deltas.parametrized import part_alone
from autotune.training.prefix.program import Function

LINEAR, CONVOLUTION = 2**16, 2**18
"""Weights that a kernel needs for this to be faster: two small layers cost more than they save."""


def beside(layer: nn.Module) -> Function | None:
    """What a layer computes whose kernel has a product as its only change; None where it is slower.

    Without gradients the changed kernel itself is used: one layer instead of three.
    """
    part = part_alone(layer, "weight")
    if not isinstance(part, Product):
        return None
    changed = _change(layer, part)
    if changed is None:
        return None
    frozen: Any = layer.parametrizations["weight"].original  # type: ignore[union-attr,index]

    def forward(x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return layer(x)  # type: ignore[no-any-return]
        return changed(x, frozen)

    return forward


def _change(layer: Any, part: Product) -> Callable[[Tensor, Tensor], Tensor] | None:
    if isinstance(layer, nn.Linear) and layer.in_features * layer.out_features >= LINEAR:
        return lambda x, frozen: (
            F.linear(x, frozen, layer.bias) + F.linear(F.linear(x, part.down), part.up)
        )
    kernel = tuple(getattr(layer, "kernel_size", ()))
    if not isinstance(layer, nn.Conv2d) or layer.groups > 1:
        return None
    if layer.in_channels * layer.out_channels * kernel[0] * kernel[1] < CONVOLUTION:
        return None

    def convolved(x: Tensor, frozen: Tensor) -> Tensor:
        down = part.down.view(-1, layer.in_channels, *kernel)
        up = part.up[:, :, None, None]
        given: Tensor = layer._conv_forward(x, frozen, layer.bias)
        return given + F.conv2d(layer._conv_forward(x, down, None), up)

    return convolved
