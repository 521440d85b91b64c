"""Layers that stay layers in a graph of operators, because their mode changes what they compute."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, fx, nn


@cache
def _operator() -> Any:
    """Operator that stands for layer number `at`, whose output is like its input."""

    @torch.library.custom_op("autotune::layer", mutates_args=())
    def layer(x: Tensor, at: int) -> Tensor:
        return x.clone()

    @layer.register_fake
    def _(x: Tensor, at: int) -> Tensor:
        return torch.empty_like(x)

    return layer


@contextmanager
def kept_as_layers(root: nn.Module, paths: Collection[str]) -> Iterator[list[str]]:
    """Context in which `torch.export` sees layers as one operator each.

    These are modules without children among `paths`, where they are called with one tensor and
    return one of the same shape and dtype: dropout and stochastic depth. Gives the list of paths
    that `layer_of` needs.
    """
    kept = [p for p in sorted(paths) if next(root.get_submodule(p).children(), None) is None]
    layers = [root.get_submodule(path) for path in kept]
    for at, layer in enumerate(layers):
        layer.__dict__["forward"] = partial(_stand_in, type(layer).forward.__get__(layer), at)
    try:
        yield kept
    finally:
        for layer in layers:
            del layer.__dict__["forward"]


def _stand_in(forward: Callable[..., Any], at: int, *args: Any, **kwargs: Any) -> Any:
    output = forward(*args, **kwargs)
    is_alone = len(args) == 1 and not kwargs and isinstance(args[0], Tensor)
    if not is_alone or not isinstance(output, Tensor):
        return output
    is_like = output.shape == args[0].shape and output.dtype == args[0].dtype
    return _operator()(args[0], at) if is_like else output


def layer_of(node: fx.Node, kept: list[str]) -> str:
    """Path of the layer that an exported operator stands for, or an empty text."""
    _operator()  # torch.ops knows it from then on
    return kept[int(node.args[1])] if node.target is torch.ops.autotune.layer.default else ""  # type: ignore[arg-type]
