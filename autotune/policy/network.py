"""The policy network: a score for every choice, from its features alone."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from autotune.errors import PolicyError
from autotune.policy.features import PRIOR

FORMAT = 1
HIDDEN = 16


class PolicyNetwork(nn.Module):
    """score = prior feature + W₂·tanh(W₁·features), W₂ zero at start.

    Inputs are known by name, so a network that learned on one problem reads another one: what it
    has never seen it leaves out at first, and what is not there counts as 0.
    """

    def __init__(self, names: tuple[str, ...], *, seed: int = 0) -> None:
        super().__init__()
        self.names = names
        generator = torch.Generator().manual_seed(seed)
        into = torch.randn(HIDDEN, len(names), generator=generator) / max(1, len(names)) ** 0.5
        self.into = nn.Parameter(into)
        self.bias = nn.Parameter(torch.randn(HIDDEN, generator=generator) / 4)
        self.out = nn.Parameter(torch.zeros(HIDDEN))

    def forward(self, features: Tensor) -> Tensor:
        """(entries, names) float32 → (entries,) scores."""
        given: Tensor = torch.tanh(features @ self.into.t() + self.bias) @ self.out
        return given + features[:, self.names.index(PRIOR)] if PRIOR in self.names else given

    def reading(self, names: list[str], *, seed: int = 0) -> PolicyNetwork:
        """The same network for features of these names; new ones count nothing until it learns."""
        grown = PolicyNetwork(tuple(names), seed=seed)
        with torch.no_grad():
            grown.into.zero_()
            for column, name in enumerate(names):
                if name in self.names:
                    grown.into[:, column] = self.into[:, self.names.index(name)]
            grown.bias.copy_(self.bias)
            grown.out.copy_(self.out)
        return grown

    def to_bytes(self, about: dict[str, object]) -> bytes:
        """`best/policy.safetensors`."""
        header = {"format": FORMAT, "features": self.names, "about": about}
        return save(
            {name: tensor.contiguous() for name, tensor in self.state_dict().items()},
            {key: json.dumps(value) for key, value in header.items()},
        )


def read_policy(path: str | Path) -> PolicyNetwork:
    """The network in a policy file; `PolicyError` for any other file. Nothing of it is executed."""
    try:
        with safe_open(path, "pt") as stored:
            header = {key: json.loads(value) for key, value in (stored.metadata() or {}).items()}
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}
        if header.get("format") != FORMAT:
            raise ValueError(f"format {header.get('format')!r}, not {FORMAT}")
        network = PolicyNetwork(tuple(header["features"]))
        network.load_state_dict(tensors)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise PolicyError(
            f"A policy file must be what a search saved as best/policy.safetensors, {path} is not "
            f"({first}). Name another with --policy, or leave it out."
        ) from error
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
        raise PolicyError(f"A policy must have finite weights, {path} has not. Name another file.")
    return network
