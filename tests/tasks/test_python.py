"""Tasks from functions and objects."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, Subset, TensorDataset

from autotune.errors import TaskError
from autotune.tasks import load_task
from autotune.tasks.base import Task
from autotune.tasks.part import Part
from autotune.tasks.python import as_task

X = np.random.default_rng(0).random((20, 3), np.float32)
Y = np.arange(20) % 2
PAIR = (X, Y)


class Examples(Dataset):
    """A data set of the user's, with plain labels."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, at: int) -> tuple[np.ndarray, int]:
        return X[at], 5 * int(Y[at])


@pytest.mark.parametrize(
    ("source", "sizes"),
    [
        (PAIR, (20, None, None)),
        ((PAIR, PAIR), (20, None, 20)),
        ((PAIR, (X[:4], Y[:4]), PAIR), (20, 4, 20)),
        ({"train": PAIR, "val": (X[:2], [0, 1])}, (20, 2, None)),
        ({"train": PAIR, "test": None}, (20, None, None)),
        (Examples(20), (20, None, None)),
        ((Examples(20), Examples(6)), (20, None, 6)),
        (TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)), (20, None, None)),
        (Subset(Examples(20), range(8)), (8, None, None)),
    ],
)
def test_every_form_becomes_parts(source, sizes):
    task = as_task(source, "object", None)
    lengths = [part and len(part) for part in (task.train, task.val, task.test)]
    assert tuple(lengths) == sizes
    assert torch.equal(task.train.inputs, torch.from_numpy(X[: sizes[0]]))
    assert task.train.labels.tolist() == Y[: sizes[0]].tolist()


def test_labels_become_numbers_and_keep_their_names():
    task = as_task((X, np.array(["no", "yes"])[Y]), "object", None)
    assert (task.classes, task.train.labels.tolist()) == (("no", "yes"), Y.tolist())
    assert as_task(Examples(20), "object", None).classes == ("0", "5")


def test_tensors_that_require_gradients_are_taken_as_values():
    task = as_task((torch.from_numpy(X).requires_grad_(), Y.reshape(-1, 1)), "object", None)
    assert not task.train.inputs.requires_grad
    assert task.train.labels.shape == (20,)


def test_a_task_is_taken_as_it_is():
    task = Task("mine", Part(torch.from_numpy(X), Y), None, None, ("a", "b"))
    assert as_task(task, "object", None) is task


def test_a_function_in_a_file_gives_a_task(tmp_path):
    (tmp_path / "data.py").write_text(
        "import numpy as np\n"
        "def make():\n    return np.zeros((6, 2), np.float32), np.arange(6) % 3\n"
        "def fails():\n    raise OSError('disk')\n"
    )
    task = load_task(f"python:{tmp_path / 'data.py'}:make", None)
    assert (task.classes, len(task.train)) == (("0", "1", "2"), 6)
    with pytest.raises(TaskError, match=r"must return a task, it raised OSError: disk\."):
        load_task(f"python:{tmp_path / 'data.py'}:fails", None)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (5, "must yield (input, label)"),
        ([], "has two or three data sets, got 0"),
        ((PAIR, PAIR, PAIR, PAIR), "got 4"),
        ({"test": PAIR}, "parts are train, val, test; got ['test']"),
        ({"train": PAIR, "dev": PAIR}, "got ['dev', 'train']"),
        ({"train": (X, Y[:7])}, "must have equal length, train of object has 20 and 7"),
        ({"train": (X, np.eye(2)[Y])}, "must have equal length, train of object has 20 and 40"),
        ({"train": (X, None)}, "has 20 and 1"),
        ({"train": (5, Y)}, "Inputs and labels must be arrays"),
        ({"train": (X, [[1], [1, 2]] * 10)}, "Inputs and labels must be arrays"),
        ({"train": ([[1.0], [1.0, 2.0]] * 10, Y)}, "Inputs must be arrays"),
        ({"train": (["text"] * 20, Y)}, "must be uint8 images, floats or integers"),
        ({"train": ([], [])}, "has 0 and 0"),
        ([PAIR, (X[:1], [7])], "has 7 elsewhere"),
    ],
)
def test_what_is_no_task_is_refused_in_one_line(source, message):
    with pytest.raises(TaskError) as caught:
        as_task(source, "object", None)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_examples_of_unequal_shape_are_refused():
    examples = [(np.zeros(2), 0), (np.zeros(3), 1), (np.zeros(2), 0)]
    with pytest.raises(TaskError, match="with inputs of one shape"):
        as_task({"train": examples}, "object", None)
