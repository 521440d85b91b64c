"""Temporary evaluation mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from autotune.backbones.snapshot import Snapshot


@contextmanager
def evaluating(network: nn.Module) -> Iterator[nn.Module]:
    """Context with the network in evaluation mode, without gradients.

    Modes, and tensors that the network's own code has written, are restored on exit.
    """
    modes = [(module, module.training) for module in network.modules()]
    snapshot = Snapshot(network)
    try:
        with torch.no_grad():
            yield network.eval()
    finally:
        snapshot.restore()
        for module, mode in modes:
            module.training = mode
