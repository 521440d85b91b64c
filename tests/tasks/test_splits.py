"""Parts are cut once, seeded, by class."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import torch

from autotune.errors import TaskError
from autotune.tasks.base import Task
from autotune.tasks.part import Part


def task_of(*counts: int, **parts: Part) -> Task:
    """So many examples a class; each is its own number."""
    labels = np.repeat(np.arange(len(counts)), counts)
    train = Part(torch.arange(len(labels)).float(), labels)
    options = {"val": None, "test": None, **parts}
    return Task("numbers", train, classes=tuple(map(str, range(len(counts)))), **options)


def numbers(part: Part) -> list[int]:
    return [int(x) for x in part.inputs]


def test_a_fifth_is_test_and_a_fifth_of_the_rest_validation():
    task = task_of(100, 60, 40).split(0)
    counts = [Counter(part.labels.tolist()) for part in (task.train, task.val, task.test)]
    assert counts[2] == {0: 20, 1: 12, 2: 8}
    assert counts[1] == {0: 16, 1: 10, 2: 6}
    assert counts[0] == {0: 64, 1: 38, 2: 26}


def test_parts_share_nothing_and_lose_nothing():
    task = task_of(30, 30).split(0)
    parts = [numbers(part) for part in (task.train, task.val, task.test)]
    assert sorted(chain(*parts)) == list(range(60))
    assert all(int(x >= 30) == y for x, y in zip(parts[0], task.train.labels, strict=True))


def test_the_seed_alone_decides():
    first, again, other = (task_of(30, 30).split(seed) for seed in (1, 1, 2))
    assert numbers(first.test) == numbers(again.test)
    assert first.digest() == again.digest()
    assert numbers(first.test) != numbers(other.test)
    assert first.digest() != other.digest()


def test_parts_that_a_source_has_are_kept():
    test = Part(torch.tensor([7.0, 8.0]), np.array([0, 1]))
    task = task_of(10, 10, test=test).split(0)
    assert task.test is test
    assert (len(task.train), len(task.val)) == (16, 4)
    val = Part(torch.tensor([1.0, 2.0, 3.0]), np.array([0, 1, 1]))
    task = task_of(10, 10, val=val).split(0)
    assert task.val is val
    assert (len(task.train), len(task.test)) == (16, 4)


@pytest.mark.parametrize("counts", [(100, 1), (100, 2), (3, 3), (1, 1)])
def test_a_class_that_is_too_small_is_refused(counts):
    with pytest.raises(TaskError, match=r"every class.*Add examples"):
        task_of(*counts).split(0)


def test_a_given_part_without_a_class_is_refused():
    test = Part(torch.tensor([7.0]), np.array([0]))
    with pytest.raises(TaskError, match="the test part of numbers has no example of '1'"):
        task_of(10, 10, test=test).split(0)


def test_one_class_is_no_task():
    with pytest.raises(TaskError, match="at least two classes, numbers has one"):
        task_of(10).split(0)


def test_folds_cover_train_and_validation_once_each():
    task = task_of(30, 20).split(0)
    folds = task.folds(4, 0)
    held = [numbers(val) for _, val in folds]
    assert sorted(chain(*held)) == sorted(numbers(task.train) + numbers(task.val))
    assert all(not set(numbers(train)) & set(numbers(val)) for train, val in folds)
    assert all(len(set(val.labels.tolist())) == 2 for _, val in folds)
    assert not set(numbers(task.test)) & set(chain(*held))


def test_folds_are_the_same_under_a_seed():
    task = task_of(30, 20).split(0)
    cut = [[numbers(val) for _, val in task.folds(3, seed)] for seed in (5, 5, 6)]
    assert cut[0] == cut[1] != cut[2]


def test_more_folds_than_examples_of_a_class_are_refused():
    task = task_of(30, 5).split(0)
    with pytest.raises(TaskError, match=r"--folds 5 but the smallest class.*has 4. Use fewer"):
        task.folds(5, 0)


def test_images_that_are_decoded_late_are_cut_alike():
    task = task_of(10, 10)
    late = replace(task, train=Part([torch.tensor(float(i)) for i in range(20)], task.train.labels))
    kept, decoded = task.split(0), late.split(0)
    assert not isinstance(decoded.train.inputs, torch.Tensor)
    assert numbers(kept.test) == numbers(decoded.test)
    assert [numbers(v) for _, v in kept.folds(3, 0)] == [numbers(v) for _, v in decoded.folds(3, 0)]


def test_the_digest_sees_inputs_and_labels():
    first, second, third = (task_of(10, 10) for _ in range(3))
    second.train.inputs[3] += 1
    third.train.labels[0] = 1
    assert len({task.digest() for task in (first, second, third)}) == 3
