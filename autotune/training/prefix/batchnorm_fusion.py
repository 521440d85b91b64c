"""Fusion of frozen batch normalisation into the frozen convolution before it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial

from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from autotune.training.prefix.graph import Graph
from autotune.training.prefix.program import Step

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def folded(
    graph: Graph, steps: Mapping[fx.Node, Step], is_touched: Callable[[fx.Node], bool]
) -> dict[fx.Node, Step]:
    """Steps in which frozen pairs of convolution and batch norm are fused.

    A pair is fused if nothing else reads the convolution. Results are equal except for rounding.
    """
    fused = dict(steps)
    readers = Counter(node for step in steps.values() for node in step.reads())
    for node, step in steps.items():
        norm = _plain_layer(graph, node, NORMS)
        if not isinstance(norm, nn.modules.batchnorm._BatchNorm) or norm.running_mean is None:
            continue
        (before,) = step.reads()
        convolution = _plain_layer(graph, before, CONVOLUTIONS)
        if not isinstance(convolution, nn.modules.conv._ConvNd):
            continue
        are_frozen = before in fused and not is_touched(node) and not is_touched(before)
        if are_frozen and readers[before] == 1:
            joined = partial(_convolved, convolution, *_weights(convolution, norm))
            fused[node] = Step(node, joined, fused.pop(before).args, {})
    return fused


def _plain_layer(graph: Graph, node: fx.Node, kinds: tuple[type, ...]) -> nn.Module | None:
    """Layer of a node, if it computes what its class in torch does: no subclass, no hook."""
    if node.op != "call_module":
        return None
    layer = graph.root.get_submodule(str(node.target))
    has_own_code = "forward" in vars(layer) or bool(graph.own_hooks(layer))
    return layer if type(layer) in kinds and not has_own_code else None


def _weights(
    convolution: nn.modules.conv._ConvNd, norm: nn.modules.batchnorm._BatchNorm
) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None and norm.running_var is not None
    weight, bias = fuse_conv_bn_weights(
        convolution.weight,
        convolution.bias,
        norm.running_mean,
        norm.running_var,
        norm.eps,
        norm.weight,
        norm.bias,
    )
    return weight.detach(), bias.detach()


def _convolved(
    convolution: nn.modules.conv._ConvNd, weight: Tensor, bias: Tensor, x: Tensor
) -> Tensor:
    output: Tensor = convolution._conv_forward(x, weight, bias)
    return output
