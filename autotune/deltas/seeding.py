"""Random numbers that depend on a seed and names alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int, *names: str) -> Iterator[None]:
    """Random numbers that depend on the seed and the names alone; torch's own state is kept."""
    text = ":".join([str(seed), *names])
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")
    with torch.random.fork_rng():
        set_seed(number)
        yield


def set_seed(number: int) -> None:
    """Of torch on every device that there is; torch's own call remembers its caller without one."""
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(number)
