"""Data as people have them, from the search to predictions and the server."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from PIL import Image

from autotune.deltas.apply import input_of
from autotune.deltas.artifact import read_artifact
from autotune.deploy.serve.requests import read_inputs

from .conftest import autotune

QUICK = "--strategy random --trials 1 --epochs 1 --no-references --bnstats off --budget 50%".split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """12-bit images of 16 bits and transparent ones in three classes, and two broken files."""
    root = tmp_path_factory.mktemp("data") / "scans"
    for at, name in enumerate(("dark", "grey", "shape")):
        (root / name).mkdir(parents=True)
        for i in range(8):
            values = np.full((8, 8), (at * 1500 + 200 + i), np.uint16)
            image = Image.fromarray(values)
            if name == "shape":
                alpha = Image.fromarray((np.eye(8) * 255).astype(np.uint8))
                image = Image.merge("LA", [Image.new("L", (8, 8)), alpha])
            image.save(root / name / f"{i}.png")
    (root / "dark" / "broken.png").write_bytes(b"")
    (root / "grey" / "cut.png").write_bytes((root / "grey" / "0.png").read_bytes()[:50])
    return root


@pytest.fixture(scope="module")
def searched(folder, tmp_path_factory, output):
    """The folder of a search on these images, on a grey background."""
    run = tmp_path_factory.mktemp("runs") / "scans"
    described = run.parent / "grey.yaml"
    described.write_text("{size: 8, channels: 1, mean: [0.0], std: [1.0]}")
    options = ("--skip-bad", "--background-color", "gray", "--input", described)
    output("search", "--task", f"imagefolder:{folder}", *options, *QUICK, "--out", run)
    return run


def test_broken_images_are_named_without_skip_bad(call, folder, tmp_path):
    code, _, errors = call("search", "--task", f"imagefolder:{folder}", *QUICK, "--dry-run")
    assert code == 2
    assert all(name in errors for name in ("broken.png", "cut.png", "--skip-bad"))


@pytest.mark.slow
def test_what_was_skipped_is_listed_in_the_run_folder(searched):
    listed = json.loads((searched / "skipped.json").read_text())
    assert [os.path.basename(entry["name"]) for entry in listed] == ["broken.png", "cut.png"]
    assert listed[0]["reason"] == "no image"


@pytest.mark.slow
def test_the_delta_knows_how_its_images_were_read(searched):
    input = input_of(read_artifact(searched / "best" / "delta.safetensors"))
    assert (input.bits, input.background) == (12, "gray")


@pytest.mark.slow
def test_predictions_and_the_server_decode_as_the_search_did(searched, folder, shown, call):
    rows = shown("predict", searched, folder, "--skip-bad")
    assert len(rows) == 24
    code, _, errors = call("predict", searched, folder)
    assert code == 2
    assert "1 more of" in errors
    input = input_of(read_artifact(searched / "best" / "delta.safetensors"))
    sent = read_inputs((folder / "grey" / "0.png").read_bytes(), "image/png", input, 8)
    assert np.allclose(sent, 1700 / 4095, atol=1e-6)
    sent = read_inputs((folder / "shape" / "0.png").read_bytes(), "image/png", input, 8)
    assert np.allclose(sent[0, 0], np.where(np.eye(8), 0, 128 / 255), atol=1e-6)


@pytest.mark.slow
def test_the_same_data_are_evaluated(searched, shown):
    assert shown("evaluate", searched)["n"] == 5


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pipe", "npy"])
def test_pipes_and_arrays_that_declare_too_much_are_refused(searched, call, tmp_path, kind):
    path = tmp_path / f"input.{kind}"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        np.lib.format.open_memmap(path, mode="w+", dtype="f4", shape=(2, 2)).flush()
        path.write_bytes(path.read_bytes().replace(b"(2, 2),    ", b"(10**9, 2),"[:11]))
    code, _, errors = call("predict", searched, path)
    assert code == 2
    assert len(errors.splitlines()) == 1


SOURCE = """
import os
import numpy as np
print("imported")
class Chatty:
    def __len__(self):
        return 30
    def __getitem__(self, at):
        print("read", at)
        return np.full((1, 8, 8), at / 30, np.float32), at % 3
def make():
    os.write(1, b"made\\n")
    return Chatty()
"""


@pytest.mark.slow
def test_output_of_a_source_is_not_in_the_json(tmp_path):
    (tmp_path / "chatty.py").write_text(SOURCE)
    task = f"python:{tmp_path / 'chatty.py'}:make"
    done = autotune("search", "--task", task, *QUICK, "--dry-run", "--json")
    assert json.loads(done.stdout)
    assert all(text in done.stderr for text in ("imported", "read 3", "made"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--background-color", "nocolour"), "a colour is a name such as white"),
        (("--group", "1"), "--group is a level of folders of imagefolder:"),
        (("--group", "0"), "group"),
    ],
)
def test_settings_that_do_not_fit_are_refused(call, options, message):
    code, _, errors = call("search", *QUICK, "--dry-run", *options)
    assert code == 2
    assert message in errors
