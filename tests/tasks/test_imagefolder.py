"""Tasks from folders of images."""

from __future__ import annotations

from multiprocessing import active_children

import numpy as np
import pytest
import torch
from PIL import Image

from autotune.backbones.inputs import InputDescription
from autotune.errors import TaskError
from autotune.tasks import imagefolder, load_task
from autotune.tasks.loading import batches, generator_of, shuffled
from autotune.tasks.options import DataOptions

RGB = InputDescription(size=(8, 8), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
GREY = InputDescription(size=(8, 8), channels=1, mean=(0.5,), std=(0.5,))
CPU = torch.device("cpu")


def write(folder, n, *, seed, size=(12, 10), mode="RGB", suffix="png"):
    """`n` random images of one class."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(seed)
    for i in range(n):
        pixels = draw.integers(0, 256, (size[1], size[0], 3), np.uint8)
        Image.fromarray(pixels).convert(mode).save(folder / f"{i}.{suffix}")


@pytest.fixture
def flat(tmp_path):
    for seed, name in enumerate(("daisy", "rose", "tulip")):
        write(tmp_path / "flowers" / name, 10, seed=seed)
    (tmp_path / "flowers" / "empty").mkdir()
    (tmp_path / "flowers" / "rose" / "notes.txt").write_text("no image")
    return tmp_path / "flowers"


def test_a_flat_folder_gives_training_images_by_class(flat):
    task = load_task(f"imagefolder:{flat}", RGB)
    assert task.classes == ("daisy", "rose", "tulip")
    assert task.train.labels.tolist() == [0] * 10 + [1] * 10 + [2] * 10
    assert (task.train.inputs.dtype, task.train.inputs.shape) == (torch.uint8, (30, 3, 8, 8))
    assert (task.val, task.test) == (None, None)


def test_folders_of_parts_stay_apart(tmp_path):
    for seed, (part, n) in enumerate({"train": 4, "val": 2, "test": 3}.items()):
        write(tmp_path / part / "a", n, seed=seed)
        write(tmp_path / part / "b", n, seed=seed + 9)
    task = load_task(f"imagefolder:{tmp_path}", RGB)
    assert [len(p) for p in (task.train, task.val, task.test)] == [8, 4, 6]
    assert task.classes == ("a", "b")


def test_images_are_resized_and_cut_from_the_centre(tmp_path):
    write(tmp_path / "a", 1, seed=0, size=(8, 8))
    write(tmp_path / "b", 1, seed=0, size=(20, 8))
    task = load_task(f"imagefolder:{tmp_path}", RGB)
    small = np.asarray(Image.open(tmp_path / "a" / "0.png")).transpose(2, 0, 1)
    wide = np.asarray(Image.open(tmp_path / "b" / "0.png")).transpose(2, 0, 1)
    assert (task.train.inputs[0].numpy() == small).all()
    assert (task.train.inputs[1].numpy() == wide[:, :, 6:14]).all()


@pytest.mark.parametrize("size", [(1, 200), (200, 1), (3, 3), (9, 8)])
def test_images_of_any_shape_get_the_size(tmp_path, size):
    write(tmp_path / "a", 1, seed=0, size=size)
    larger = InputDescription(size=(6, 10), resize=12)
    assert load_task(f"imagefolder:{tmp_path}", larger).train.inputs.shape == (1, 3, 6, 10)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1"])
@pytest.mark.parametrize("input", [RGB, GREY], ids=["rgb", "grey"])
def test_colours_become_what_the_backbone_takes(tmp_path, mode, input):
    write(tmp_path / "a", 2, seed=0, mode=mode)
    inputs = load_task(f"imagefolder:{tmp_path}", input).train.inputs
    assert inputs.shape == (2, input.channels, 8, 8)
    assert (inputs[0] != inputs[1]).any()
    if mode in "L1":
        assert (inputs == inputs[:, :1]).all()


@pytest.mark.parametrize("suffix", ["jpg", "JPEG", "bmp", "webp", "tif", "ppm"])
def test_common_formats_are_read(tmp_path, suffix):
    write(tmp_path / "a", 1, seed=0, suffix=suffix)
    assert len(load_task(f"imagefolder:{tmp_path}", RGB).train) == 1


def test_a_broken_image_is_named(flat):
    broken = flat / "rose" / "3.png"
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(TaskError) as caught:
        load_task(f"imagefolder:{flat}", RGB)
    assert str(caught.value).startswith(f"Every image must decode, {str(broken)!r} does not (")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["png", "jpg", "ppm"])
def test_a_damaged_image_is_refused_or_read_but_never_crashes(tmp_path, suffix):
    write(tmp_path / "a", 1, seed=0, suffix=suffix)
    file, draw = tmp_path / "a" / f"0.{suffix}", np.random.default_rng(0)
    whole, refused = file.read_bytes(), 0
    for _ in range(150):
        content = bytearray(whole)
        content[draw.integers(len(whole) if suffix == "png" else 12)] = draw.integers(256)
        file.write_bytes(content)
        try:
            load_task(f"imagefolder:{tmp_path}", RGB)
        except TaskError:
            refused += 1
    assert refused > 10


# what a folder has besides good images


def broken(flat):
    """Three files that do not decode, for different reasons."""
    files = [flat / "daisy" / "empty.png", flat / "rose" / "page.jpg", flat / "tulip" / "cut.png"]
    whole = (flat / "tulip" / "0.png").read_bytes()
    for file, content in zip(files, (b"", b"<html>not here</html>", whole[:60]), strict=True):
        file.write_bytes(content)
    return files


def test_all_broken_images_are_named_at_once(flat):
    files = broken(flat)
    with pytest.raises(TaskError, match="give --skip-bad") as caught:
        load_task(f"imagefolder:{flat}", RGB)
    assert all(str(file) in str(caught.value) for file in files)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("in_memory", [2**30, 0])
def test_broken_images_are_left_out_on_request(flat, monkeypatch, caplog, in_memory):
    caplog.set_level("INFO")
    monkeypatch.setattr(imagefolder, "IN_MEMORY", in_memory)
    files = broken(flat)
    task = load_task(f"imagefolder:{flat}", RGB, DataOptions(skip_bad=True))
    assert (len(task.train), len(task.train.inputs)) == (30, 30)
    assert [one.name for one in task.skipped] == list(map(str, files))
    assert "3 that do not decode (empty.png, page.jpg, cut.png)" in caplog.text


def deep(folder, bits, n=4):
    """Classes dark, grey and bright in images of 16 bits, of which `bits` are used."""
    for at, name in enumerate(("bright", "dark", "grey")):
        (folder / name).mkdir(parents=True)
        for i in range(n):
            level = {"dark": 0.05, "grey": 0.5, "bright": 0.95}[name]
            draw = np.random.default_rng(10 * at + i).uniform(-0.04, 0.04, (8, 8))
            values = ((level + draw) * (2**bits - 1)).astype(np.uint16)
            Image.fromarray(values).save(folder / name / f"{i}.png")
    return f"imagefolder:{folder}"


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("in_memory", [2**30, 0])
def test_16_bit_images_are_scaled_by_the_bits_that_they_use(
    tmp_path, monkeypatch, caplog, bits, in_memory
):
    caplog.set_level("INFO")
    monkeypatch.setattr(imagefolder, "IN_MEMORY", in_memory)
    grey = InputDescription(size=(8, 8), channels=1, mean=(0.0,), std=(1.0,))
    task = load_task(deep(tmp_path, bits), grey)
    inputs = torch.stack([task.train.inputs[at] for at in range(12)])
    means = [float(inputs[task.train.labels == at].mean()) for at in range(3)]
    assert np.allclose(means, [0.95, 0.05, 0.5], atol=0.02)
    assert task.input.bits == bits
    assert f"scaled by the {bits} bits" in caplog.text


def test_deep_images_next_to_others_are_normalised_alike(tmp_path):
    name = deep(tmp_path, 16)
    write(tmp_path / "other", 3, seed=0, size=(8, 8), mode="L")
    task = load_task(name, GREY)
    plain = np.asarray(Image.open(tmp_path / "other" / "0.png")) / 255
    at = int(np.flatnonzero(task.train.labels == task.classes.index("other"))[0])
    assert task.train.inputs.dtype == torch.float32
    assert np.allclose(task.train.inputs[at, 0], (plain - 0.5) / 0.5, atol=1e-6)


def test_examples_of_a_folder_below_the_class_stay_together(tmp_path):
    for seed in range(24):
        write(tmp_path / "ab"[seed % 2] / f"patient{seed // 4}" / str(seed), 2, seed=seed)
    task = load_task(f"imagefolder:{tmp_path}", RGB, DataOptions(group=1))
    assert len(set(task.train.groups)) == 6
    whole = task.split(0)
    parts = [set(part.groups) for part in (whole.train, whole.val, whole.test)]
    assert sum(map(len, parts)) == 6
    assert all(parts)


def test_images_above_the_level_of_groups_are_groups_of_their_own(tmp_path, caplog):
    write(tmp_path / "a", 2, seed=0)
    write(tmp_path / "b" / "patient", 2, seed=1)
    task = load_task(f"imagefolder:{tmp_path}", RGB, DataOptions(group=1))
    assert task.train.groups.tolist() == [0, 1, 2, 2]
    assert "2 images of imagefolder:" in caplog.text


def test_further_frames_are_reported(tmp_path, caplog):
    write(tmp_path / "a", 1, seed=0)
    (tmp_path / "b").mkdir()
    frames = [Image.new("L", (8, 8), level) for level in (0, 90)]
    frames[0].save(tmp_path / "b" / "0.gif", save_all=True, append_images=frames[1:])
    load_task(f"imagefolder:{tmp_path}", RGB)
    assert "with several frames or pages: 1. Only the first is used" in caplog.text


@pytest.mark.parametrize("missing", ["folder", "classes", "images", "val"])
def test_a_folder_without_images_is_refused(tmp_path, missing):
    root = tmp_path / "root"
    if missing == "classes":
        root.mkdir()
    elif missing == "images":
        (root / "train" / "a").mkdir(parents=True)
    elif missing == "val":
        write(root / "train" / "a", 1, seed=0)
        (root / "val" / "a").mkdir(parents=True)
    message = "must be a folder" if missing == "folder" else "needs one folder of images per class"
    with pytest.raises(TaskError, match=message):
        load_task(f"imagefolder:{root}", RGB)


def test_a_part_without_classes_is_left_out_on_request(tmp_path, caplog):
    write(tmp_path / "train" / "a", 1, seed=0)
    write(tmp_path / "test", 1, seed=1)
    with pytest.raises(TaskError, match=r"test has none. Give --skip-unlabelled"):
        load_task(f"imagefolder:{tmp_path}", RGB)
    task = load_task(f"imagefolder:{tmp_path}", RGB, DataOptions(skip_unlabelled=True))
    assert task.test is None
    assert "test is split from the others instead" in caplog.text


def test_a_class_that_was_never_trained_is_named(tmp_path):
    write(tmp_path / "train" / "a", 1, seed=0)
    write(tmp_path / "test" / "b", 1, seed=1)
    with pytest.raises(TaskError, match=r"has 'b' elsewhere. Add training examples"):
        load_task(f"imagefolder:{tmp_path}", RGB)


@pytest.mark.parametrize("input", [None, InputDescription(shape=(4,))])
def test_a_backbone_of_unknown_image_size_is_refused(flat, input):
    with pytest.raises(TaskError, match=r"whose image size is known. Describe it with --input"):
        load_task(f"imagefolder:{flat}", input)


# more images than memory


def test_loader_processes_give_the_batches_of_memory(flat, monkeypatch):
    kept = load_task(f"imagefolder:{flat}", RGB).split(0)
    monkeypatch.setattr(imagefolder, "IN_MEMORY", 0)
    decoded = load_task(f"imagefolder:{flat}", RGB).split(0)
    assert not isinstance(decoded.train.inputs, torch.Tensor)
    inputs = RGB.normalise(kept.train.inputs)
    received = list(batches(decoded.train, 8, input=RGB, device=CPU))
    assert [len(x) for x, _ in received] == [8, 8, 3]
    assert torch.equal(torch.cat([x for x, _ in received]), inputs)
    assert torch.cat([y for _, y in received]).tolist() == kept.train.labels.tolist()


def test_loader_processes_shuffle_as_memory_does(flat, monkeypatch):
    kept = load_task(f"imagefolder:{flat}", RGB)
    monkeypatch.setattr(imagefolder, "IN_MEMORY", 0)
    decoded = load_task(f"imagefolder:{flat}", RGB)
    options = {"input": RGB, "device": CPU, "augment": "crop+flip"}
    received = list(shuffled(decoded.train, 16, generator_of(1, 2), **options))
    normal = type(kept.train)(RGB.normalise(kept.train.inputs), kept.train.labels)
    for (x, y), (a, b) in zip(
        received, shuffled(normal, 16, generator_of(1, 2), **options), strict=True
    ):
        assert torch.equal(x, a)
        assert torch.equal(y, b)


def test_a_image_that_breaks_in_a_loader_process_is_named_in_one_line(flat, monkeypatch):
    monkeypatch.setattr(imagefolder, "IN_MEMORY", 0)
    task = load_task(f"imagefolder:{flat}", RGB)
    (flat / "tulip" / "2.png").write_bytes(b"no image")
    with pytest.raises(TaskError) as caught:
        list(batches(task.train, 8, input=RGB, device=CPU))
    assert str(caught.value).startswith("Every image must decode, ")
    assert "2.png" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not active_children()
