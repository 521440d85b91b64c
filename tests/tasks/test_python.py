"""Tasks from functions and objects."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, Subset, TensorDataset

from autotune.backbones.inputs import InputDescription
from autotune.errors import TaskError
from autotune.tasks import load_task
from autotune.tasks.base import Task
from autotune.tasks.loading import check_fits
from autotune.tasks.options import DataOptions
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
        ((X, Y.tolist()), (20, None, None)),
        ((X.tolist(), Y.tolist()), (20, None, None)),
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
        ({"train": PAIR, "extra": PAIR}, "got ['extra', 'train']"),
        ({"train": PAIR, "dev": PAIR, "val": PAIR}, "has 'dev' and 'val' for val"),
        ({"train": (X, Y[:7])}, "must have equal length, train of object has 20 and 7"),
        ({"train": (X, None)}, "Labels must be a list or an array"),
        ({"train": (5, Y)}, "Inputs and labels must be arrays"),
        ({"train": (X, [[1], [1, 2]] * 10)}, "Train of object is multi-label"),
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


# labels, missing labels and broken rows


def test_float_labels_of_a_data_set_are_no_classes():
    rows = [(np.zeros(2, np.float32), torch.tensor(at / 2)) for at in range(6)]
    with pytest.raises(TaskError, match="numbers as in regression"):
        as_task({"train": rows}, "object", None)


@pytest.mark.parametrize("blank", [-1, -100])
def test_examples_without_a_label_are_left_out_on_request(blank, caplog):
    caplog.set_level("INFO")
    y = np.where(np.arange(20) < 4, blank, Y)
    data = {"train": (X, y), "test": (X[:3], np.full(3, blank))}
    with pytest.raises(TaskError, match=r"4 of 20 in train, 3 of 3 in test .*--skip-unlabelled"):
        as_task(data, "object", None)
    task = as_task(data, "object", None, DataOptions(skip_unlabelled=True))
    assert (task.classes, len(task.train), task.test) == (("0", "1"), 16, None)
    assert torch.equal(task.train.inputs, torch.from_numpy(X[4:]))
    assert "4 of 20 in train" in caplog.text


def test_a_task_whose_labels_are_no_classes_is_refused():
    part = Part(torch.from_numpy(X), np.where(Y == 0, -1, Y))
    with pytest.raises(TaskError, match=r"must be 0 to 1, mine has -1 to 1"):
        as_task(Task("mine", part, None, None, ("a", "b")), "object", None)


class Broken(Examples):
    """A data set of which two rows raise."""

    def __getitem__(self, at: int) -> tuple[np.ndarray, int]:
        if at == 3:
            raise SystemExit(2)
        if at == 7:
            raise OSError("disk")
        return super().__getitem__(at)


def test_all_broken_rows_are_named_at_once_or_left_out_on_request():
    with pytest.raises(TaskError) as caught:
        as_task(Broken(20), "object", None)
    message = str(caught.value)
    assert "train of object[3] (SystemExit: 2), train of object[7] (OSError: disk)" in message
    assert "--skip-bad" in message
    task = as_task(Broken(20), "object", None, DataOptions(skip_bad=True))
    assert (len(task.train), len(task.skipped)) == (18, 2)


# data sets of other libraries, which need not be installed


class Column:
    """A feature of Hugging Face `datasets` with names of classes."""

    names: ClassVar = ["zebra", "ape"]


class Table(Sequence):
    """A split of Hugging Face `datasets`: rows are mappings."""

    def __init__(self, rows: list[dict], **features: Column) -> None:
        self.rows, self.features = rows, features

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, at: int) -> dict:
        return self.rows[at]


def table(n: int, **features: Column) -> Table:
    return Table([{"id": i, "x": X[i], "label": int(Y[i])} for i in range(n)], **features)


def test_rows_of_columns_and_parts_of_other_names_are_read(caplog):
    caplog.set_level("INFO")
    data = {"train": table(20), "validation": table(4), "test": table(6)}
    task = as_task(data, "object", None)
    lengths = [len(part) for part in (task.train, task.val, task.test)]
    assert (lengths, task.classes) == ([20, 4, 6], ("0", "1"))
    assert torch.equal(task.train.inputs, torch.from_numpy(X))
    assert "validation is val" in caplog.text
    assert "Inputs of train of object are x; not used: id." in caplog.text


def test_names_of_classes_are_taken_from_the_data_set():
    task = as_task({"train": table(20, label=Column())}, "object", None)
    assert (task.classes, task.train.labels.tolist()) == (("zebra", "ape"), Y.tolist())


def test_rows_of_unknown_columns_are_refused_by_name():
    rows = Table([{"a": X[0], "b": X[0], "label": 0}] * 4)
    with pytest.raises(TaskError, match="train of object has a, b, label"):
        as_task({"train": rows}, "object", None)


@pytest.mark.parametrize("form", ["pillow", "pairs", "lists", "bytes"])
def test_images_of_pillow_are_decoded_like_files(form):
    stored = BytesIO()
    image = Image.fromarray(np.full((9, 9), 40_000, np.uint16))
    image.save(stored, "PNG")
    column = {"bytes": stored.getvalue(), "path": None} if form == "bytes" else image
    rows = [{"image": column, "label": at % 2} for at in range(4)]
    pairs = [(image, at % 2) for at in range(4)]
    data = pairs if form == "pairs" else Table(rows)
    data = tuple(zip(*pairs, strict=True)) if form == "lists" else data
    input = InputDescription(size=(4, 4), channels=1, mean=(0.0,), std=(1.0,))
    inputs = as_task({"train": data}, "object", input).train.inputs
    assert inputs.shape == (4, 1, 4, 4)
    assert np.allclose(inputs, 40_000 / 65_535, atol=1e-5)


def test_tables_and_columns_of_pandas_are_read():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, index=range(5, 25)).assign(label=np.array(["no", "yes"])[Y])
    for data in (frame, (frame.drop(columns="label"), frame["label"])):
        task = as_task(data, "object", None)
        assert (task.classes, task.train.labels.tolist()) == (("no", "yes"), Y.tolist())
        assert torch.equal(task.train.inputs, torch.from_numpy(X))


def test_data_sets_of_hugging_face_are_read():
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "x": datasets.Sequence(datasets.Value("float32")),
            "label": datasets.ClassLabel(names=["no", "yes"]),
        }
    )
    content = pytest.importorskip("pyarrow").table(
        {"x": X.tolist(), "label": Y.tolist()}, schema=features.arrow_schema
    )
    info = datasets.DatasetInfo(features=features)
    # named, since a fingerprint that is computed pickles the whole table
    split = datasets.Dataset(datasets.table.InMemoryTable(content), info=info, fingerprint="0")
    task = as_task(datasets.DatasetDict(train=split, validation=split), "object", None)
    assert (task.classes, len(task.val)) == (("no", "yes"), 20)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (np.full((20, 2), 1e39), "read as float32, which ends at 3.4e"),
        (np.full((20, 2), -1e39), "read as float32"),
        (np.full((20, 2), 2**63, np.uint64), "read as int64"),
    ],
)
def test_numbers_beyond_the_dtype_are_refused(inputs, message):
    with pytest.raises(TaskError, match=message):
        as_task((inputs, Y), "object", None)


def test_numbers_beyond_a_half_precision_network_are_refused():
    part = Part(torch.full((4, 2), 70_000.0), np.zeros(4, np.int64))
    half = InputDescription(shape=(2,), dtype="float16")
    with pytest.raises(TaskError, match=r"takes float16, from -6.55e\+04 to 6.55e\+04"):
        check_fits(part, half, "object")


def test_a_source_that_exits_is_an_error_with_its_name(tmp_path, capsys):
    (tmp_path / "leaves.py").write_text(
        "import sys\ndef make():\n    print('a line')\n    sys.exit(3)\n"
    )
    (tmp_path / "leaves_at_once.py").write_text("raise SystemExit('no data')\n")
    with pytest.raises(TaskError, match=r"leaves.py:make must return a task, it raised SystemExit"):
        load_task(f"python:{tmp_path / 'leaves.py'}:make", None)
    with pytest.raises(TaskError, match=r"must import, it raised SystemExit: no data"):
        load_task(f"python:{tmp_path / 'leaves_at_once.py'}:make", None)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "a line\n")
