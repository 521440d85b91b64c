"""Checkpoints as bytes: tensors by kind and a JSON header, in the safetensors format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from safetensors.torch import load, save
from torch import Tensor


def to_checkpoint(kinds: Mapping[str, Mapping[str, Tensor]], header: Mapping[str, Any]) -> bytes:
    """Content of a file with the tensors of every kind and a header of JSON values."""
    return save(flatten(kinds), {key: json.dumps(value) for key, value in header.items()})


def flatten(kinds: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """`KIND/NAME` → tensor on the CPU, as safetensors stores them."""
    return {
        f"{kind}/{name}": tensor.detach().cpu().contiguous()
        for kind, tensors in kinds.items()
        for name, tensor in tensors.items()
    }


def read_tensors(checkpoint: bytes) -> dict[str, dict[str, Tensor]]:
    """Kind → name → tensor; an absent kind is empty."""
    kinds: dict[str, dict[str, Tensor]] = {}
    for key, tensor in load(checkpoint).items():
        kind, _, name = key.partition("/")
        kinds.setdefault(kind, {})[name] = tensor
    return kinds


def read_header(checkpoint: bytes) -> dict[str, Any]:
    """Header of a checkpoint; tensors are not read."""
    length = int.from_bytes(checkpoint[:8], "little")
    metadata = json.loads(checkpoint[8 : 8 + length])["__metadata__"]
    return {key: json.loads(value) for key, value in metadata.items()}
