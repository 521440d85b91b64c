"""Tasks from numpy files."""

from __future__ import annotations

import zipfile
from io import BytesIO

import numpy as np
import pytest
import torch

from autotune.errors import NotBuilt, TaskError, UnknownName
from autotune.tasks import load_task
from autotune.tasks.array_files import read_npy

X = np.random.default_rng(0).random((20, 3), np.float32)
Y = np.arange(20) % 2


@pytest.fixture
def stored(tmp_path):
    """Saves arrays and gives the task's name."""

    def save(**arrays):
        np.savez(tmp_path / "task.npz", **arrays)
        return f"npz:{tmp_path / 'task.npz'}"

    return save


def test_arrays_become_parts(stored):
    name = stored(x_train=X, y_train=Y, x_val=X[:4], y_val=Y[:4], x_test=X[:6], y_test=Y[:6])
    task = load_task(name, None)
    assert (task.source, task.classes) == (name, ("0", "1"))
    assert [len(part) for part in (task.train, task.val, task.test)] == [20, 4, 6]
    assert torch.equal(task.train.inputs, torch.from_numpy(X))
    assert task.train.labels.tolist() == Y.tolist()


def test_parts_that_a_file_lacks_are_none(stored):
    task = load_task(stored(x_train=X, y_train=Y), None)
    assert (task.val, task.test) == (None, None)


@pytest.mark.parametrize(
    ("shape", "seen"),
    [
        ((20, 5, 6), (20, 1, 5, 6)),
        ((20, 5, 6, 3), (20, 3, 5, 6)),
        ((20, 5, 6, 1), (20, 1, 5, 6)),
        ((20, 3, 5, 6), (20, 3, 5, 6)),
    ],
)
def test_uint8_images_have_their_channels_first(stored, shape, seen):
    x = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
    inputs = load_task(stored(x_train=x, y_train=Y), None).train.inputs
    assert (inputs.dtype, tuple(inputs.shape)) == (torch.uint8, seen)
    assert int(inputs[7].sum()) == int(x[7].sum())
    if shape[-1] == 3:
        assert inputs[7, 2, 1, 4] == x[7, 1, 4, 2]


@pytest.mark.parametrize(
    ("dtype", "seen"),
    [(np.float64, torch.float32), (np.float16, torch.float32), (np.int32, torch.int64)],
)
def test_arrays_are_taken_in_the_dtype_of_a_network(stored, dtype, seen):
    inputs = load_task(stored(x_train=(9 * X).astype(dtype), y_train=Y), None).train.inputs
    assert inputs.dtype == seen
    assert torch.equal(inputs, torch.from_numpy((9 * X).astype(dtype)).to(seen))


def test_labels_may_be_strings_or_numbers_with_gaps(stored):
    named = np.array(["dog", "cat"])[Y]
    task = load_task(stored(x_train=X, y_train=named, x_test=X[:2], y_test=named[:2]), None)
    assert (task.classes, task.test.labels.tolist()) == (("cat", "dog"), [1, 0])
    task = load_task(stored(x_train=X, y_train=40 - 30 * Y), None)
    assert (task.classes, task.train.labels[:2].tolist()) == (("10", "40"), [1, 0])


def test_object_arrays_are_refused_and_nothing_is_unpickled(tmp_path, stored):
    class Mischief:
        def __reduce__(self):
            return ((tmp_path / "created").touch, ())

    with pytest.raises(TaskError, match="must hold plain arrays"):
        load_task(stored(x_train=X, y_train=np.array([Mischief()] * 20, object)), None)
    assert not (tmp_path / "created").exists()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x_train": X}, "The array y_train is missing from"),
        ({"x_test": X, "y_test": Y}, "The array x_train is missing from"),
        ({"x_train": X, "y_train": Y, "x_val": X}, "The array y_val is missing"),
        ({"x_train": X, "y_train": Y[:9]}, "has (20, 3) and (9,)"),
        ({"x_train": X[:0], "y_train": Y[:0]}, "must have equal length, at least one"),
        ({"x_train": X, "y_train": Y.reshape(-1, 1, 1)}, "Labels must be (n,)"),
        ({"x_train": X, "y_train": Y, "group_train": Y[:3]}, "one group per example"),
        ({"x_train": X, "y_train": Y - 1}, "10 of 20 in train without one (-1 means none)"),
        ({"x_train": X.astype(float) * 1e39, "y_train": Y}, "read as float32"),
        ({"x_train": X.astype(np.uint64) + 2**63, "y_train": Y}, "read as int64"),
        ({"x_train": np.float32(1), "y_train": Y}, "has () and (20,)"),
        ({"x_train": X, "y_train": Y / 2}, "Labels must be integers or strings"),
        ({"x_train": X > 0, "y_train": Y}, "Inputs must be uint8 images, floats or integers"),
        ({"x_train": X * np.float32("inf"), "y_train": Y}, "Inputs must be finite"),
        ({"x_train": np.zeros((20, 5), np.uint8), "y_train": Y}, "uint8 images are (n, h, w)"),
        ({"x_train": X, "y_train": Y, "x_test": X, "y_test": Y + 1}, "has 2 elsewhere"),
    ],
)
def test_wrong_arrays_are_refused_in_one_line(stored, arrays, message):
    with pytest.raises(TaskError) as caught:
        load_task(stored(**arrays), None)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("compressed", [True, False])
def test_a_damaged_file_is_refused_or_read_but_never_crashes(tmp_path, compressed):
    file, draw = tmp_path / "task.npz", np.random.default_rng(0)
    (np.savez_compressed if compressed else np.savez)(file, x_train=X, y_train=Y)
    whole, refused = file.read_bytes(), 0
    for _ in range(150):
        content = bytearray(whole)
        content[draw.integers(len(whole))] ^= 1 << int(draw.integers(8))
        file.write_bytes(content)
        try:
            load_task(f"npz:{file}", None)
        except TaskError:
            refused += 1
    assert refused > 75


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04", b"\x93NUMPY\x01\x00"])
def test_what_is_no_npz_file_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "task.npz").write_bytes(content)
    with pytest.raises(TaskError, match="An npz: task must"):
        load_task(f"npz:{tmp_path / 'task.npz'}", None)


def test_an_npy_file_is_refused(tmp_path):
    np.save(tmp_path / "task.npy", X)
    with pytest.raises(TaskError, match="must hold plain arrays"):
        load_task(f"npz:{tmp_path / 'task.npy'}", None)


def test_unknown_and_reserved_sources_say_the_way_out():
    with pytest.raises(UnknownName, match=r"named 'npy'. Did you mean 'npz'"):
        load_task("npy:a.npy", None)
    with pytest.raises(UnknownName, match="There is no task named 'digits'"):
        load_task("digits", None)
    with pytest.raises(NotBuilt, match=r"'csv' is reserved but not built yet. Write an npz: file"):
        load_task("csv:a.csv", None)


def test_the_digits_come_under_six_names_with_equal_labels():
    shifts = ("", "-inverted", "-noise", "-contrast", "-rotated", "-plain")
    tasks = [load_task(f"builtin:digits{shift}", None) for shift in shifts]
    assert {task.train.inputs.shape for task in tasks} == {(899, 1, 8, 8)}
    assert all((t.train.labels == tasks[0].train.labels).all() for t in tasks)
    assert len({task.digest() for task in tasks}) == 5
    with pytest.raises(UnknownName, match="Did you mean 'digits-noise'"):
        load_task("builtin:digits-nose", None)


def declares(path, name, shape, *, stored=True):
    """An array's member whose header declares a shape that its content does not have."""
    header = BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": shape}
    )
    with zipfile.ZipFile(path, "a", zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED) as file:
        file.writestr(f"{name}.npy", header.getvalue() + bytes(64))


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("shape", [(10**12,), (10**6, 10**6), (2**62, 4)])
def test_a_file_that_declares_more_than_it_has_is_refused_without_allocating(
    tmp_path, shape, stored
):
    declares(tmp_path / "a.npz", "x_train", shape, stored=stored)
    declares(tmp_path / "a.npz", "y_train", (3,), stored=stored)
    with pytest.raises(TaskError, match=r"x_train declares [\d,]+ bytes") as caught:
        load_task(f"npz:{tmp_path / 'a.npz'}", None)
    assert "\n" not in str(caught.value)


def test_a_member_with_an_impossible_size_is_refused(tmp_path):
    declares(tmp_path / "a.npz", "x_train", (10**9,))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    at = content.index(b"PK\x01\x02") + 24
    content[at : at + 4] = (4 * 10**9 + 128 - 2**32 * 0).to_bytes(4, "little")
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(TaskError, match="x_train has a size that its 192 bytes cannot hold"):
        load_task(f"npz:{tmp_path / 'a.npz'}", None)


@pytest.mark.parametrize("code", [0x110000, 2**32 - 1, 0xD800, 0xDFFF])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("name", ["y_train", "group_train"])
def test_text_that_is_not_unicode_is_refused(stored, name, order, code):
    codes = np.full(20, ord("a"), f"{order}u4")
    codes[7] = code
    arrays = {"x_train": X, "y_train": Y, name: codes.view(f"{order}U1")}
    with pytest.raises(TaskError, match=f"{name} has characters that are not Unicode"):
        load_task(stored(**arrays), None)


@pytest.mark.parametrize("order", ["<", ">"])
def test_labels_may_have_any_characters(stored, order):
    labels = np.array(["\U0010ffff", "é"] * 10).astype(f"{order}U3")
    assert load_task(stored(x_train=X, y_train=labels), None).classes == ("é", "\U0010ffff")


@pytest.mark.parametrize("header", [b"(" * 118, b"{'''", b"'", b"\\\n" * 40, b"1 (" * 30])
def test_a_header_that_is_no_python_is_refused(tmp_path, header):
    content = b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header
    (tmp_path / "inputs.npy").write_bytes(content)
    with pytest.raises(TaskError, match=r"An \.npy file must contain an array"):
        read_npy(tmp_path / "inputs.npy")


@pytest.mark.parametrize("labels", [Y.reshape(-1, 1), Y == 1, np.eye(2)[Y]])
def test_labels_may_be_columns_booleans_or_one_hot(stored, labels):
    task = load_task(stored(x_train=X, y_train=labels), None)
    assert len(task.classes) == 2
    assert task.train.labels.tolist() == Y.tolist()


def test_groups_are_read_and_other_arrays_are_named(stored, caplog):
    caplog.set_level("INFO")
    groups = np.array(["p1", "p2", "p3", "p4", "p5"])[np.arange(20) // 4]
    task = load_task(stored(x_train=X, y_train=Y, group_train=groups, x_valid=X), None)
    assert task.train.groups.tolist() == (np.arange(20) // 4).tolist()
    assert "arrays of other names: 1 (x_valid)" in caplog.text
    whole = task.split(0)
    assert [len(part) for part in (whole.train, whole.val, whole.test)] == [12, 4, 4]
