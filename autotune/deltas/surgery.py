"""Small operations on a network that can be undone: exchange, freeze, compare."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from autotune.backbones.eval_mode import with_dense_gradients


def difference(outputs: Tensor, expected: Tensor) -> float:
    """Largest difference between outputs, relative to the largest expected one."""
    dtype = torch.promote_types(expected.dtype, torch.float32)
    outputs, expected = outputs.to(dtype), expected.to(dtype)
    return float((outputs - expected).abs().max() / expected.abs().max().clamp_min(1e-12))


def frozen(network: nn.Module) -> Callable[[], None]:
    """Freeze the network (evaluation mode, no gradients); return a function that undoes it.

    Meanwhile, gradients of embeddings are dense.
    """
    flags = [(p, p.requires_grad) for p in network.parameters()]
    modes = [(m, m.training) for m in network.modules()]
    sparse_again = with_dense_gradients(network)
    network.requires_grad_(False)
    network.eval()

    def undo() -> None:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
        for module, mode in modes:
            module.training = mode
        sparse_again()

    return undo


Undo = Callable[[], None]


def exchange(network: nn.Module, path: str, module: nn.Module) -> Undo:
    """Replace the module at `path` by `module`; return a function that puts it back."""
    parent_path, _, name = path.rpartition(".")
    children = network.get_submodule(parent_path)._modules
    before = children[name]
    children[name] = module
    return partial(children.__setitem__, name, before)


def exchange_buffer(network: nn.Module, name: str, value: Tensor) -> Undo:
    """Replace a buffer by a tensor of these values; return a function that puts it back.

    Raises `ValueError` for another shape.
    """
    path, _, last = name.rpartition(".")
    buffers, before = network.get_submodule(path)._buffers, network.get_buffer(name)
    if value.shape != before.shape:
        raise ValueError(f"{name} must have the shape {tuple(before.shape)}")
    buffers[last] = torch.empty_like(before).copy_(value)
    return partial(buffers.__setitem__, last, before)


@contextmanager
def exchanged(network: nn.Module, path: str, module: nn.Module) -> Iterator[nn.Module]:
    """Context in which `module` replaces the one at `path`."""
    undo = exchange(network, path, module)
    try:
        yield module
    finally:
        undo()
