"""Policy network: scores of choices from their features."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from autotune.errors import PolicyError, first_line
from autotune.study.policy.features import PRIOR

POLICY_FORMAT = 1
"""Version of policy files."""

HIDDEN = 16
"""Hidden units. Few, as a search trains the network on the scores of a single problem."""


class PolicyNetwork(nn.Module):
    """Two-layer network: log score = prior feature + w₂·tanh(W₁·features + b), w₂ initially 0.

    Features are identified by name, so a network trained on one problem can score another. A
    feature that it was not trained on has no effect until it is trained again.
    """

    def __init__(self, names: Sequence[str], *, seed: int = 0) -> None:
        super().__init__()
        self.names = tuple(names)
        generator = torch.Generator().manual_seed(seed)
        inside = torch.randn(HIDDEN, len(self.names), generator=generator)
        self.inside = nn.Parameter(inside / max(1, len(self.names)) ** 0.5)
        self.bias = nn.Parameter(torch.randn(HIDDEN, generator=generator) / 4)
        self.out = nn.Parameter(torch.zeros(HIDDEN))

    def forward(self, features: Tensor) -> Tensor:
        """Positive scores (entries,) with mean square 1, for float32 features (entries, names)."""
        logs = torch.tanh(features @ self.inside.t() + self.bias) @ self.out
        logs = logs + features[:, self.names.index(PRIOR)]
        scores = (logs - logs.detach().max()).exp()
        return scores / scores.square().mean().sqrt()

    def reading(self, names: Sequence[str], *, seed: int = 0) -> PolicyNetwork:
        """Copy of the network that reads features with these names.

        Weights of new features are 0, those of missing ones are dropped.
        """
        copied = PolicyNetwork(names, seed=seed)
        with torch.no_grad():
            copied.inside.zero_()
            for column, name in enumerate(names):
                if name in self.names:
                    copied.inside[:, column] = self.inside[:, self.names.index(name)]
            copied.bias.copy_(self.bias)
            copied.out.copy_(self.out)
        return copied

    def to_bytes(self, about: dict[str, object]) -> bytes:
        """Content of a policy file, with `about` in its header; inverse of `read_policy`."""
        header = {"format": POLICY_FORMAT, "features": self.names, "about": about}
        tensors = {name: t.detach().contiguous() for name, t in self.state_dict().items()}
        return save(tensors, {"policy": json.dumps(header)})


def read_policy(path: str | Path) -> PolicyNetwork:
    """Read a policy file without executing any of it; raises `PolicyError` for any other file."""
    try:
        with safe_open(path, "pt") as stored:
            header = json.loads((stored.metadata() or {})["policy"])
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}
        if header.get("format") != POLICY_FORMAT:
            raise ValueError(f"its format is {header.get('format')!r}, not {POLICY_FORMAT}")
        network = PolicyNetwork(header["features"])
        network.load_state_dict(tensors)
        if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
            raise ValueError("its weights are not finite")
    except _UNUSABLE as error:
        first = first_line(error)
        raise PolicyError(
            f"A policy file must be what a search saved as best/policy.safetensors, {path} is not "
            f"({first}). Name another with --policy, or leave it out."
        ) from error
    return network


_UNUSABLE = (
    *(SafetensorError, OSError, AttributeError, LookupError, RuntimeError, TypeError, ValueError),
    *(MemoryError, OverflowError),
)
"""Errors of reading a file that no search saved, or of making a network of it."""
