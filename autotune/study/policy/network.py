"""The policy network: a score for every choice, from its features alone."""

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
HIDDEN = 16


class PolicyNetwork(nn.Module):
    """log score = prior feature + w₂·tanh(W₁·features + b), w₂ zero at start.

    Inputs are known by name, so that a network that learned on one problem reads another: a
    feature that it has never seen counts nothing until it learns again.
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
        """(entries, names) float32 → (entries,) scores above 0, with 1 as their mean square."""
        logs = torch.tanh(features @ self.inside.t() + self.bias) @ self.out
        logs = logs + features[:, self.names.index(PRIOR)]
        scores = (logs - logs.detach().max()).exp()
        return scores / scores.square().mean().sqrt()

    def reading(self, names: Sequence[str], *, seed: int = 0) -> PolicyNetwork:
        """The same network for features of these names."""
        grown = PolicyNetwork(names, seed=seed)
        with torch.no_grad():
            grown.inside.zero_()
            for column, name in enumerate(names):
                if name in self.names:
                    grown.inside[:, column] = self.inside[:, self.names.index(name)]
            grown.bias.copy_(self.bias)
            grown.out.copy_(self.out)
        return grown

    def to_bytes(self, about: dict[str, object]) -> bytes:
        """What `read_policy` reads."""
        header = {"format": POLICY_FORMAT, "features": self.names, "about": about}
        tensors = {name: t.detach().contiguous() for name, t in self.state_dict().items()}
        return save(tensors, {"policy": json.dumps(header)})


def read_policy(path: str | Path) -> PolicyNetwork:
    """The network in a policy file; `PolicyError` for any other file. Nothing of it is executed."""
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
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        first = first_line(error)
        raise PolicyError(
            f"A policy file must be what a search saved as best/policy.safetensors, {path} is not "
            f"({first}). Name another with --policy, or leave it out."
        ) from error
    return network
