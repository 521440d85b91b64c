"""Data sets whose transforms draw at random: they are read anew in every epoch."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autotune.backbones.inputs import InputDescription
from autotune.tasks.numbers import as_inputs
from autotune.tasks.part import Chained, Rows

COMPARED_EXAMPLES = 16
"""Number of examples that are read twice, for transforms with a generator of their own."""


class RandomExamples(Sequence[Tensor]):
    """Inputs of a data set of (input, label), drawn on every access."""

    def __init__(self, dataset: Any, input: InputDescription | None, where: str) -> None:
        self.dataset, self.input, self.where = dataset, input, where
        self.identity = _digest(self)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, at: Any) -> Any:
        example = np.asarray(self.dataset[int(at)][0])
        return as_inputs(example[None], self.input, self.where)[0]


def is_random(inputs: Any) -> bool:
    """Whether inputs of a part are drawn on every access."""
    if isinstance(inputs, Rows):
        return is_random(inputs.inputs)
    if isinstance(inputs, Chained):
        return is_random(inputs.first) or is_random(inputs.second)
    return isinstance(inputs, RandomExamples)


def draws(dataset: Any) -> bool:
    """Whether reading a data set of (input, label) draws random numbers or gives other inputs."""
    rows = np.unique(np.linspace(0, len(dataset) - 1, COMPARED_EXAMPLES).round().astype(int))
    before = _states()
    first, second = ([np.asarray(dataset[int(at)][0]) for at in rows] for _ in range(2))
    same_states = all(a == b for a, b in zip(before, _states(), strict=True))
    return not same_states or any(
        a.shape != b.shape or not np.array_equal(a, b) for a, b in zip(first, second, strict=True)
    )


@contextmanager
def drawn_with(seed: int, at: int) -> Iterator[None]:
    """Context in which the generators of Python, NumPy and torch follow from `seed` and `at`."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    number = int.from_bytes(sha256(f"{seed} {at}".encode()).digest()[:4], "big")
    random.seed(number)
    np.random.seed(number)
    torch.default_generator.manual_seed(number)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def _states() -> tuple[bytes, ...]:
    states = random.getstate(), np.random.get_state(legacy=False), torch.get_rng_state().tolist()
    with np.printoptions(threshold=10**6):
        return tuple(sha256(repr(state).encode()).digest() for state in states)


def _digest(examples: RandomExamples) -> str:
    """Digest of all examples, each drawn with a seed of its own."""
    digest = sha256()
    for at in range(len(examples)):
        with drawn_with(0, at):
            digest.update(examples[at].contiguous().numpy().data)
    return digest.hexdigest()
