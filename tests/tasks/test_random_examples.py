"""Data sets whose transforms draw are read anew in every epoch, and the same way for a seed."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from autotune.tasks.loading import PartFeed, generator_of
from autotune.tasks.python import as_task
from autotune.tasks.random_examples import drawn_with, draws, is_random

OWN = np.random.default_rng(0)


class Noisy(Dataset[tuple[Tensor, int]]):
    """Thirty examples with noise of one kind."""

    def __init__(self, noise: Callable[[], float]) -> None:
        self.noise = noise

    def __len__(self) -> int:
        return 30

    def __getitem__(self, at: int) -> tuple[Tensor, int]:
        return torch.full((4,), float(at)) + self.noise(), at % 3


KINDS = {
    "torch": lambda: float(torch.rand(())),
    "numpy": lambda: float(np.random.rand()),
    "python": random.random,
    "rarely": lambda: float(torch.rand(()) < 1e-9),
    "own": lambda: float(OWN.random()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_transforms_that_draw_are_noticed(kind):
    assert draws(Noisy(KINDS[kind]))


def test_other_transforms_are_not():
    assert not draws(Noisy(lambda: 0.5))


def epoch(task: object, seed: int, at: int) -> Tensor:
    feed = PartFeed(task.train, None, torch.device("cpu"))  # type: ignore[attr-defined]
    batches = feed.shuffled(8, generator_of(seed, at), at)
    rows = torch.cat([x for (x,), _ in batches])
    return rows[rows[:, 0].floor().argsort()]


def test_every_epoch_has_other_examples_and_a_seed_always_the_same(caplog):
    task = as_task(Noisy(KINDS["torch"]), "test", None).split(0)
    assert is_random(task.train.inputs)
    assert "draw at random" in caplog.text
    assert torch.equal(epoch(task, 1, 0), epoch(task, 1, 0))
    assert not torch.equal(epoch(task, 1, 0), epoch(task, 1, 1))
    assert not torch.equal(epoch(task, 1, 0), epoch(task, 2, 0))


def test_evaluation_always_has_the_same_examples():
    task = as_task(Noisy(KINDS["numpy"]), "test", None).split(0)
    feed = PartFeed(task.val, None, torch.device("cpu"))
    first, second = (torch.cat([x for (x,), _ in feed.in_order(8)]) for _ in range(2))
    assert torch.equal(first, second)


def test_a_digest_of_random_examples_stays():
    digests = {as_task(Noisy(KINDS["python"]), "test", None).digest() for _ in range(2)}
    assert len(digests) == 1


def test_drawing_leaves_the_generators_alone():
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    with drawn_with(1, 2):
        torch.rand(1), random.random(), np.random.rand()
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert (np.random.get_state()[1] == states[2]).all()
