"""Logits of a network, whatever object its forward pass returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx, nn

LOGITS = "logits"
"""Entry or attribute in which a network may return its logits, as transformers do."""


def logits_of(output: Any) -> Any:
    """Logits in the output of a network: its entry or attribute `logits`, or the output itself."""
    if isinstance(output, (Tensor, fx.Proxy)):  # a proxy would have any attribute
        return output
    if isinstance(output, Mapping):
        return output.get(LOGITS, output)
    return getattr(output, LOGITS, output)


class LogitsOnly(nn.Module):
    """Network that returns the logits alone of one that returns them in an object."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Any) -> Any:
        return logits_of(self.network(x))
