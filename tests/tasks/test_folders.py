"""Folders as people have them: parts, hidden folders, links, and what is no image."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from autotune.errors import TaskError
from autotune.tasks.folders import find_classes, find_images, find_parts
from autotune.tasks.left_out import LeftOut
from autotune.tasks.part_names import part_of


def write(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(path)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        *((name, "train") for name in ("train", "Train", "TRAINING", "training_set", "train2017")),
        *((name, "val") for name in ("val", "valid", "Validation", "dev", "DEV-set", "val_images")),
        *((name, "test") for name in ("test", "Testing", "test set", "test-data")),
        *((name, None) for name in ("trainer", "testament", "cat", "valley", "developer", "2017")),
    ],
)
def test_parts_are_recognised_in_any_case_and_spelling(name, part):
    assert part_of(name) == part


def test_folders_that_are_all_parts_are_parts_and_reported(tmp_path, caplog):
    caplog.set_level("INFO")
    write(*(tmp_path / part / "a" / "0.png" for part in ("Training", "dev", "Test")))
    parts = find_parts(tmp_path, LeftOut())
    assert {part: folder.name for part, folder in parts.items()} == {
        "train": "Training",
        "val": "dev",
        "test": "Test",
    }
    assert "Training is train, dev is val, Test is test" in caplog.text


@pytest.mark.parametrize("names", [("cat", "test"), ("car", "train"), ("test", "val")])
def test_a_class_may_be_called_like_a_part(tmp_path, caplog, names):
    write(*(tmp_path / name / "0.png" for name in names))
    assert find_parts(tmp_path, LeftOut()) == {"train": tmp_path}
    assert "read as classes" in caplog.text


def test_folders_without_images_do_not_decide_what_is_a_part(tmp_path, caplog):
    caplog.set_level("INFO")
    write(tmp_path / "train" / "a" / "0.png", tmp_path / ".git" / "0.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "all.csv").write_text("a")
    left_out = LeftOut()
    assert find_parts(tmp_path, left_out) == {"train": tmp_path / "train"}
    left_out.report("data")
    assert "folders without images: 1 (labels)" in caplog.text
    assert "hidden files and folders: 1 (.git)" in caplog.text


def test_two_folders_for_one_part_are_refused(tmp_path):
    write(*(tmp_path / part / "a" / "0.png" for part in ("train", "valid", "dev")))
    with pytest.raises(TaskError, match=r"'dev' and 'valid' for val. Rename or join them"):
        find_parts(tmp_path, LeftOut())


def test_what_is_no_image_is_counted_and_named(tmp_path):
    write(tmp_path / "k0" / "0.png", tmp_path / "k0" / ".ipynb_checkpoints" / "0.png")
    write(tmp_path / "k0" / "._0.png", tmp_path / "__MACOSX" / "k0" / "1.png", tmp_path / "x.png")
    (tmp_path / "k0" / "notes.txt").write_text("no image")
    (tmp_path / "k0" / "scan.heic").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "k0" / "pipe.png")
    os.symlink("nowhere.png", tmp_path / "k0" / "dangling.png")
    left_out = LeftOut()
    images = find_classes(tmp_path, left_out)
    assert [image.path.name for image in images] == ["0.png"]
    names = sorted(name for names in left_out.names.values() for name in names)
    assert names == sorted(
        "__MACOSX .ipynb_checkpoints ._0.png x.png notes.txt scan.heic empty pipe.png "
        "dangling.png".split()
    )


@pytest.mark.parametrize("target", [".", "..", "../.."])
def test_links_to_folders_above_make_no_loops(tmp_path, target):
    root = tmp_path / "root"
    write(root / "k0" / "0.png", root / "k1" / "1.png")
    os.symlink(target, root / "k0" / "again", target_is_directory=True)
    images = find_classes(root, LeftOut())
    assert [(image.label, image.path.name) for image in images] == [
        ("k0", "0.png"),
        ("k1", "1.png"),
    ]


def test_links_are_followed_once(tmp_path):
    write(tmp_path / "store" / "a.png", tmp_path / "root" / "k1" / "b.png")
    os.symlink(tmp_path / "store", tmp_path / "root" / "k0", target_is_directory=True)
    os.symlink(tmp_path / "store", tmp_path / "root" / "k2", target_is_directory=True)
    os.symlink("b.png", tmp_path / "root" / "k1" / "c.png")
    os.symlink(tmp_path / "store" / "a.png", tmp_path / "root" / "k1" / "a.png")
    os.symlink(tmp_path / "root", tmp_path / "root" / "all", target_is_directory=True)
    left_out = LeftOut()
    images = find_classes(tmp_path / "root", left_out)
    assert sorted((image.label, image.path.name) for image in images) == [
        ("k0", "a.png"),
        ("k1", "a.png"),
        ("k1", "b.png"),
    ]
    assert sorted(next(iter(left_out.names.values()))) == ["all", "c.png", "k2"]


def test_a_folder_to_predict_is_read_in_the_same_way(tmp_path):
    write(tmp_path / "b" / "0.gif", tmp_path / "a.png", tmp_path / ".cache" / "1.png")
    names = [path.name for path in find_images(tmp_path, LeftOut())]
    assert names == ["a.png", "0.gif"]


def test_names_that_cannot_be_printed_are_written_in_ascii(caplog):
    caplog.set_level("INFO")
    left_out = LeftOut()
    left_out.add("files of other kinds", "\udcff.txt")
    left_out.report("data")
    assert caplog.messages == [r"Left out of data: files of other kinds: 1 (\udcff.txt)."]
