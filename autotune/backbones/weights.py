"""Weights from a file of the user: safetensors, or a `.pth` read with `weights_only=True`."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from autotune.backbones.head import find_head
from autotune.errors import BackboneError, first_line

SUFFIXES = (".safetensors", ".pth", ".pt")


def read_weights(file: str) -> dict[str, Tensor]:
    """Read a weights file; `BackboneError` if it is missing, damaged or no state dict."""
    path = Path(file)
    if path.suffix not in SUFFIXES:
        raise BackboneError(
            f"Weights must be a {', '.join(SUFFIXES)} file, got {file!r}. Save a state dict as one."
        )
    if not path.is_file():
        raise BackboneError(f"A weights file must exist, {file!r} does not. Check --weights.")
    try:
        state = _read(path)
    except _DAMAGE as error:
        reason = first_line(error)
        raise BackboneError(
            f"A weights file must hold tensors alone, {file!r} does not read as that ({reason}). "
            "Save network.state_dict(), best as .safetensors."
        ) from error
    return _tensors(state, file)


_DAMAGE = (
    *(RuntimeError, EOFError, ValueError, LookupError, TypeError, AssertionError, AttributeError),
    *(SafetensorError, pickle.UnpicklingError, struct.error),
)


def load_weights(
    network: nn.Module, state: dict[str, Tensor], *, source: str, head: str | None = None
) -> nn.Module:
    """Copy `state` into the network, except a head of another shape; return the network.

    Tensors are converted to the network's dtype. Raises `BackboneError`, naming the first keys, if
    tensors outside the head are missing, unexpected or of another shape.
    """
    expected = network.state_dict()
    state = _unwrapped(state, expected)
    head = (head or find_head(network)) + "."
    misshaped = {k for k in state if k in expected and state[k].shape != expected[k].shape}
    foreign_head = {k for k in misshaped if k.startswith(head)}
    missing = [k for k in expected if k not in state and not _is_optional(k, head)]
    extra = [k for k in state if k not in expected and not k.startswith(head)]
    wrong = sorted(misshaped - foreign_head)
    faults = {
        "lacks tensors": missing,
        "has unexpected tensors": extra,
        "has tensors of other shapes": wrong,
    }
    for fault, keys in faults.items():
        if keys:
            raise BackboneError(
                f"Weights must match the network; {source} {fault} ({len(keys)}), "
                f"first {', '.join(keys[:3])}. Check --backbone and --weights."
            )
    kept = {k: t for k, t in state.items() if k in expected and k not in foreign_head}
    network.load_state_dict(kept, strict=False)
    return network


def _unwrapped(state: dict[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove the prefix `module.` of data-parallel training, unless the network's names have it."""
    if any(name in expected for name in state):
        return state
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def _is_optional(key: str, head: str) -> bool:
    return key.startswith(head) or key.endswith(".num_batches_tracked")


def _read(path: Path) -> object:
    if path.suffix == ".safetensors":
        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _tensors(state: object, file: str) -> dict[str, Tensor]:
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if isinstance(state, dict) and state and all(isinstance(t, Tensor) for t in state.values()):
        return {str(name): t for name, t in state.items()}
    raise BackboneError(
        f"A weights file must hold a state dict, {file!r} does not. Save network.state_dict()."
    )
