"""Tensors that a network's own code may write, and their values before."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn


class Snapshot:
    """Values of the tensors that a forward pass may write, to be restored once.

    These are all buffers (counters, running means, the vectors of spectral norm), and weights of
    embeddings with `max_norm`, which torch renormalises in place. A buffer that the network's code
    replaced by another tensor is put back, too.
    """

    def __init__(self, network: nn.Module) -> None:
        self._tensors = [
            (owner, name, tensor, tensor.detach().clone())
            for owner, name, tensor in _written(network)
            if not tensor.is_meta
        ]

    @torch.no_grad()
    def restore(self) -> None:
        """Restore the values; further calls do nothing."""
        for owner, name, tensor, value in self._tensors:
            # not by `_version`: batch norm writes its statistics without counting it
            if not torch.equal(tensor, value):
                tensor.copy_(value)
            if owner.get(name) is not tensor:
                owner[name] = tensor
        self._tensors = []


def _written(network: nn.Module) -> Iterator[tuple[dict[str, Tensor], str, Tensor]]:
    for module in network.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None:
                yield module._buffers, name, buffer  # type: ignore[misc]
        if getattr(module, "max_norm", None) is not None:
            for name, weight in module._parameters.items():
                if weight is not None:
                    yield module._parameters, name, weight  # type: ignore[misc]
