"""Parts are cut once, seeded, by class."""

from __future__ import annotations

import pickle
from collections import Counter
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import torch

from autotune.errors import TaskError
from autotune.tasks.base import Task
from autotune.tasks.part import Part
from autotune.tasks.splits import halved


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


@pytest.mark.parametrize("counts", [(100, 1), (100, 2), (3, 3), (2, 2), (1, 1, 1, 9), (3, 1)])
def test_few_examples_of_a_class_stay_in_training(counts, caplog):
    task = task_of(*counts).split(0)
    parts = [numbers(part) for part in (task.train, task.val, task.test)]
    assert sorted(chain(*parts)) == list(range(sum(counts)))
    assert set(task.train.labels.tolist()) == set(range(len(counts)))
    assert all(parts)
    assert caplog.text.count("are not measured") == 1


@pytest.mark.parametrize("counts", [(1, 1), (1, 1, 1), (2, 1)])
def test_too_few_examples_for_parts_are_refused(counts):
    with pytest.raises(TaskError, match=r"if every class keeps an example.*give the parts"):
        task_of(*counts).split(0)


def test_one_example_of_a_class_is_enough_where_parts_are_given():
    few = Part(torch.tensor([7.0, 8.0]), np.array([0, 1]))
    task = task_of(1, 1, val=few, test=few).split(0)
    assert [len(part) for part in (task.train, task.val, task.test)] == [2, 2, 2]
    assert [len(part) for part in halved(task.train, 0)] == [1, 1]


def test_a_given_part_without_a_class_is_reported_once(caplog):
    test = Part(torch.tensor([7.0]), np.array([0]))
    task_of(10, 10, test=test).split(0)
    assert len(caplog.messages) == 1
    assert "not measured, for lack of examples: test has none of '1'" in caplog.text


def test_a_class_without_a_training_example_is_refused():
    task = replace(task_of(10, 10), classes=("0", "1", "2"))
    with pytest.raises(TaskError, match=r"numbers has none of '2'"):
        task.split(0)


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


@pytest.mark.parametrize("counts", [(30, 2), (2, 2, 2), (30, 5), (2, 2, 9)])
def test_folds_work_from_two_examples_of_a_class(counts, caplog):
    labels = np.repeat(np.arange(len(counts)), counts)
    empty = Part(torch.zeros(0), np.zeros(0, np.int64))
    task = replace(task_of(*counts), val=empty)
    assert len(labels) == len(task.selectable())
    folds = task.folds(5, 0)
    held = [numbers(val) for _, val in folds]
    assert sorted(chain(*held)) == list(range(sum(counts)))
    assert all(held)
    assert all(len(set(train.labels.tolist())) == len(counts) for train, _ in folds)
    assert caplog.text.count("validate on fewer than all") == (counts != (30, 5))


def test_a_single_example_of_a_class_is_trained_on_in_every_fold():
    task = replace(task_of(10, 1), val=Part(torch.zeros(0), np.zeros(0, np.int64)))
    for train, val in task.folds(3, 0):
        assert 10 in numbers(train)
        assert 10 not in numbers(val)


def test_more_folds_than_examples_are_refused():
    task = replace(task_of(2, 2), val=Part(torch.zeros(0), np.zeros(0, np.int64)))
    with pytest.raises(TaskError, match=r"--folds 5 is too many for numbers.*Use fewer folds"):
        task.folds(5, 0)


def grouped(*groups: tuple[int, int], per_group: int = 3) -> Task:
    """Examples of (class, group), `per_group` of each."""
    labels, names = np.repeat(np.array(groups), per_group, axis=0).T
    train = Part(torch.arange(len(labels)).float(), labels, names)
    return Task("numbers", train, None, None, tuple(map(str, np.unique(labels))))


def together(parts: list[Part]) -> bool:
    groups = [set(part.groups.tolist()) for part in parts]
    return sum(map(len, groups)) == len(set().union(*groups))


def test_groups_stay_in_one_part_and_in_one_fold():
    task = grouped(*((g % 2, g) for g in range(20))).split(0)
    assert together([task.train, task.val, task.test])
    assert 6 <= len(task.test) <= 18
    for train, val in task.folds(4, 0):
        assert together([train, val])
        assert set(val.labels.tolist()) == {0, 1}
    assert together(list(halved(task.train, 0)))
    assert pickle.loads(pickle.dumps(task.train)).groups.tolist() == task.train.groups.tolist()


def test_the_only_group_of_a_class_is_trained_on():
    task = grouped((0, 0), *((1, g) for g in range(1, 9))).split(0)
    assert 0 in task.train.groups
    assert all(0 in train.groups for train, _ in task.folds(3, 0))


def test_groups_that_cannot_be_split_are_refused():
    with pytest.raises(TaskError, match=r"Every class needs a group that stays in training"):
        grouped((0, 0), (1, 1)).split(0)


def test_a_group_in_two_given_parts_is_refused():
    task = grouped(*((g % 2, g) for g in range(6)))
    with pytest.raises(TaskError, match=r"must be in one part, 6 of numbers are in train and in"):
        replace(task, test=task.train).split(0)


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
