"""Random numbers that depend on a seed and names alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int, *names: str) -> Iterator[None]:
    """Context whose random numbers depend on the seed and names alone; torch's state is kept."""
    text = ":".join([str(seed), *names])
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")
    with torch.random.fork_rng():
        set_seed(number)
        yield


def set_seed(number: int, device: torch.device | None = None) -> None:
    """Seed torch's generators of the CPU and of a GPU; without a device, of every GPU."""
    # without a GPU, `torch.manual_seed` would keep a reference to its caller
    torch.default_generator.manual_seed(number)
    if device is not None and device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(number)
    elif device is None and torch.cuda.is_available():
        torch.cuda.manual_seed_all(number)
