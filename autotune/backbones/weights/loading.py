"""Weights from a file: safetensors, or one of torch that is read with `weights_only=True`."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from autotune.backbones.heads.finding import find_head
from autotune.backbones.weights.state_dicts import State, state_dicts, without_prefixes
from autotune.errors import BackboneError, first_line
from autotune.utils.events import tell

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")

StateDicts = Mapping[str, State]
"""Entry of a weights file → state dict; the entry is empty if the file holds nothing else."""


def read_weights(file: str) -> StateDicts:
    """Read a weights file; `BackboneError` if it is missing, damaged or has no state dict."""
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
    if states := state_dicts(state):
        return states
    raise BackboneError(
        f"A weights file must hold a state dict, {file!r} does not. Save network.state_dict()."
    )


_DAMAGE = (
    *(RuntimeError, EOFError, ValueError, LookupError, TypeError, AssertionError, AttributeError),
    *(SafetensorError, pickle.UnpicklingError, struct.error, OSError),
)


def load_weights(
    network: nn.Module, states: StateDicts | State, *, source: str, head: str | None = None
) -> nn.Module:
    """Copy a state dict into the network, except a head of another shape; return the network.

    Of several entries and prefixes of names, the first is taken with which all names match.
    Tensors are converted to the network's dtype. Raises `BackboneError`, naming the first keys, if
    tensors outside the head are missing, unexpected or of another shape.
    """
    expected = network.state_dict()
    head = (head or find_head(network)) + "."
    state = _matching(_by_entry(states), expected, head, source)
    misshaped = {k for k in state if k in expected and state[k].shape != expected[k].shape}
    foreign_head = {k for k in misshaped if k.startswith(head)}
    if wrong := sorted(misshaped - foreign_head):
        raise _mismatch(source, "has tensors of other shapes", wrong)
    kept = {k: t for k, t in state.items() if k in expected and k not in foreign_head}
    network.load_state_dict(kept, strict=False)
    return network


def _by_entry(states: StateDicts | State) -> StateDicts:
    if any(isinstance(value, Tensor) for value in states.values()):
        return {"": states}  # type: ignore[dict-item]
    return states  # type: ignore[return-value]


def _matching(states: StateDicts, expected: State, head: str, source: str) -> State:
    """State dict whose names match; `BackboneError` if there is none."""
    for entry, state in states.items():
        for renamed in without_prefixes(state):
            if not any(_faults(renamed, expected, head).values()):
                _report(source, entry, zip(state, renamed, strict=True), states.keys() - {entry})
                return renamed
    state = max(states.values(), key=lambda state: len(state.keys() & expected.keys()))
    fault, keys = next((f, k) for f, k in _faults(state, expected, head).items() if k)
    beside = ""
    if not state.keys() & expected.keys():
        beside = f" Names in the file begin with {_first(state)}; the network's with "
        beside += f"{_first(expected)}."
    raise _mismatch(source, fault, keys, beside)


def _faults(state: State, expected: State, head: str) -> dict[str, list[str]]:
    return {
        "lacks tensors": [k for k in expected if k not in state and not _is_optional(k, head)],
        "has unexpected tensors": [
            k for k in state if k not in expected and not k.startswith(head)
        ],
    }


def _mismatch(source: str, fault: str, keys: list[str], beside: str = "") -> BackboneError:
    return BackboneError(
        f"Weights must match the network; {source} {fault} ({len(keys)}), first {_first(keys)}."
        f"{beside} Check --backbone and --weights."
    )


def _first(names: Iterable[str]) -> str:
    return ", ".join(list(names)[:3])


def _report(
    source: str, entry: str, names: Iterable[tuple[str, str]], others: Iterable[str]
) -> None:
    """Say in one line what was read, unless the file is a state dict with the network's names."""
    parts = [f"its entry {entry!r}"] if entry else []
    renamed = next((f"{before} is {after}" for before, after in names if before != after), "")
    parts += [f"names without their prefix ({renamed})"] if renamed else []
    left = f"; not read: {', '.join(sorted(others))}" if others else ""
    if parts:
        tell("weights", f"Weights of {source}: {', '.join(parts)}{left}.")


def _is_optional(key: str, head: str) -> bool:
    return key.startswith(head) or key.endswith(".num_batches_tracked")


def _read(path: Path) -> object:
    if path.suffix == ".safetensors":
        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)
