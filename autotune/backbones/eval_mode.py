"""Temporary evaluation mode, and temporary dense gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn

from autotune.backbones.activation_checkpoints import plain_checkpoints
from autotune.backbones.snapshot import Snapshot


@contextmanager
def evaluating(network: nn.Module) -> Iterator[nn.Module]:
    """Context with the network in evaluation mode, without gradients.

    Modes, and tensors that the network's own code has written, are restored on exit. If gradients
    are turned on inside, they are dense, and checkpoints are not re-entrant.
    """
    modes = [(module, module.training) for module in network.modules()]
    snapshot, sparse_again = Snapshot(network), with_dense_gradients(network)
    try:
        with torch.no_grad(), plain_checkpoints():
            yield network.eval()
    finally:
        snapshot.restore()
        sparse_again()
        for module, mode in modes:
            module.training = mode


def with_dense_gradients(network: nn.Module) -> Callable[[], None]:
    """Give embeddings dense gradients, which optimizers need; return a function that undoes it."""
    layers = [m for m in network.modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag))]
    sparse = [layer for layer in layers if layer.sparse]

    def set_sparse(is_sparse: bool) -> None:
        for layer in sparse:
            layer.sparse = is_sparse

    set_sparse(False)
    return partial(set_sparse, True)
