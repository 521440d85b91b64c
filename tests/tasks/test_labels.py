"""Labels in the forms that people have them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from autotune.errors import TaskError
from autotune.tasks.labels import read_labels

Y = [0, 1, 2, 1, 0, 2]
NAMES = ["cat", "dog", "cow", "dog", "cat", "cow"]


@pytest.mark.parametrize(
    ("labels", "values"),
    [
        (Y, Y),
        (tuple(Y), Y),
        (np.array(Y, np.uint8), Y),
        (np.array(Y).reshape(-1, 1), Y),
        (torch.tensor(Y), Y),
        (torch.tensor(Y).reshape(-1, 1), Y),
        ([np.int64(y) for y in Y], Y),
        ([torch.tensor(y) for y in Y], Y),
        ([torch.tensor([y]) for y in Y], Y),
        ([[y] for y in Y], Y),
        (NAMES, NAMES),
        (np.array(NAMES), NAMES),
        (np.array(NAMES, object), NAMES),
        (np.array(NAMES).reshape(-1, 1), NAMES),
        ([np.str_(name) for name in NAMES], NAMES),
        ([name.encode() for name in NAMES], NAMES),
        (np.array(NAMES, "S"), NAMES),
        ([True, False], [True, False]),
        (np.array([True, False]), [True, False]),
        ([np.True_, np.False_], [True, False]),
        (torch.tensor([True, False]), [True, False]),
    ],
)
def test_classes_are_read_in_any_form(labels, values):
    read = read_labels(labels, "train")
    assert read.values == values
    assert {type(value) for value in read.values} <= {int, str, bool}
    assert read.n_missing == 0


@pytest.mark.parametrize(
    "labels",
    [
        [0, -1, 1],
        torch.tensor([0, -100, 1]),
        ["a", None, "b"],
        ["a", "", "b"],
        np.array(["a", np.nan, "b"], object),
        np.array([0, None, 1], object),
        [0, float("nan"), 1],
    ],
)
def test_missing_labels_are_no_class(labels):
    if isinstance(labels, list) and isinstance(labels[0], int) and labels[1] != -1:
        labels = [None if value != value else value for value in labels]
    read = read_labels(labels, "train")
    assert read.values[1] is None
    assert read.n_missing == 1


@pytest.mark.parametrize("dtype", [np.int64, bool, np.float32])
@pytest.mark.parametrize("form", [np.asarray, torch.as_tensor, list], ids=["np", "torch", "rows"])
def test_one_hot_rows_become_classes(dtype, form, caplog):
    caplog.set_level("INFO")
    read = read_labels(form(np.eye(3)[Y].astype(dtype)), "train")
    assert read.values == Y
    assert "are one-hot" in caplog.text


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([0.0, 1.0]), "numbers as in regression"),
        (torch.tensor([0.5, 1.5]), "numbers as in regression"),
        (torch.tensor([0.5, 1.5], dtype=torch.bfloat16), "numbers as in regression"),
        ([0.5, 1.5], "numbers as in regression"),
        ([1, 1.5], "numbers as in regression"),
        ([torch.tensor(0.5)], "numbers as in regression"),
        (np.array([0.5, 1], object), "numbers as in regression"),
        (np.array([[0.1, 0.9], [0.5, 0.5]]), "probabilities of classes"),
        (np.array([[3.1, 0.9], [0.5, 0.5]]), "2 numbers per example, as in regression"),
        (np.array([[0, 1, 1], [1, 0, 0]]), "is multi-label"),
        (np.array([[0, 3], [1, 2]]), "is multi-label"),
        ([["cat", "dog"], ["cat"]], "is multi-label"),
        ([["cat", "dog"], ["cat", "cow"]], "is multi-label"),
        ([{"cat", "dog"}, {"cat"}], "is multi-label"),
        ([{"class": "cat"}], "of one kind, train has dict"),
        (["cat", 1], "of one kind, train has int and str"),
        (np.array([1 + 2j]), "has complex128"),
        (np.array(["2020-01-01"], "datetime64[D]"), "has datetime64[D]"),
        (np.zeros((2, 2, 2), int), "Labels must be (n,)"),
        (5, "must be a list or an array"),
    ],
)
def test_other_labels_are_named_and_refused_in_one_line(labels, message):
    with pytest.raises(TaskError) as caught:
        read_labels(labels, "train")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_that_the_data_have_are_those_of_the_classes():
    read = read_labels([1, 0, -1], "train", ["zebra", "ape"])
    assert (read.values, read.order) == (["ape", "zebra", None], ("zebra", "ape"))
    with pytest.raises(TaskError, match="among the 2 classes that the data name, train has 2"):
        read_labels([0, 2], "train", ["zebra", "ape"])


def test_tables_of_pandas_are_read(caplog):
    pandas = pytest.importorskip("pandas")
    series = pandas.Series(NAMES, index=[5, 4, 3, 2, 1, 0])
    for labels in (series, series.astype("category"), series.to_frame(), series.astype("string")):
        assert read_labels(labels, "train").values == NAMES
    missing = read_labels(pandas.Series([0, None, 1], dtype="Int64"), "train")
    assert missing.values == [0, None, 1]
    dummies = read_labels(pandas.get_dummies(series), "train")
    assert (dummies.values, dummies.order) == (NAMES, ("cat", "cow", "dog"))
