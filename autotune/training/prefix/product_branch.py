"""Low-rank products as a branch: in training, B·(A·x) is added to the output of the frozen layer.

The gradient of the whole kernel, a third of a layer's arithmetic, is then never computed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autotune.backbones.precision import LOW
from autotune.deltas.factors import Product
from autotune.deltas.parametrized import part_alone
from autotune.training.prefix.program import Function

LINEAR, CONVOLUTION = 2**16, 2**18
"""Smallest number of weights of a kernel for which the branch is faster.

In smaller kernels, calling two more layers takes longer than the gradient that they save.
"""


def product_branch(layer: nn.Module) -> Function | None:
    """Forward function of a layer whose only change is a product; None if it would be slower.

    Without gradients, it uses the changed kernel itself: one layer instead of three. A kernel of
    low precision is rounded after its change, which the branch could not follow.
    """
    part = part_alone(layer, "weight")
    if not isinstance(part, Product) or layer.parametrizations["weight"].original.dtype in LOW:  # type: ignore[union-attr,index]
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
        output: Tensor = layer._conv_forward(x, frozen, layer.bias)
        return output + F.conv2d(layer._conv_forward(x, down, None), up)

    return convolved
