"""Wrong use gives one line that says the rule, exit code 2, and leaves no run folder behind."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from autotune.backbones.sources.digits import DigitsNet
from autotune.run.settings import space_folder


@pytest.fixture
def refused(call, tmp_path, monkeypatch):
    """The one line, without `autotune: `, that a search with these options is refused with."""
    monkeypatch.chdir(tmp_path)

    def run(*options: object, command: str = "search") -> str:
        before = set(Path().rglob("*"))
        code, out, err = call(command, *options)
        assert (code, out) == (2, ""), err
        assert err.startswith("autotune: ")
        assert err.endswith("\n")
        assert err.count("\n") == 1, "exactly one line"
        assert set(Path().rglob("*")) == before, "nothing is left behind"
        return err.removeprefix("autotune: ").strip()

    return run


def arrays(n: int = 60, size: int = 8, classes: int = 3) -> dict[str, np.ndarray]:
    x = np.random.default_rng(0).random((n, 1, size, size), np.float32)
    return {"x_train": x, "y_train": np.arange(n) % classes}


def npz(changes: dict[str, np.ndarray | None]) -> str:
    kept = {k: v for k, v in {**arrays(), **changes}.items() if v is not None}
    np.savez("task.npz", **kept)
    return "npz:task.npz"


def images(root: str, classes: int, n: int = 10) -> str:
    for label in range(classes):
        folder = Path(root) / f"class{label}"
        folder.mkdir(parents=True)
        for i in range(n):
            Image.new("L", (8, 8), 20 * i).save(folder / f"{i}.png")
    return f"imagefolder:{root}"


# names


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--backbone", "builtin:digit"), "Did you mean 'digits'"),
        (("--backbone", "resnet18"), "There is no backbone named 'resnet18'"),
        (("--backbone", "torchvison:resnet18"), "Did you mean 'torchvision'"),
        (("--backbone", "torchvision:resnet999"), "resnet999"),
        (("--backbone", "timm:vit_tiny"), "'timm' is reserved but not built yet"),
        (("--backbone", "hf:bert"), "'hf' is reserved but not built yet"),
        (("--task", "builtin:digts"), "Did you mean 'digits'"),
        (("--task", "flowers"), "There is no task named 'flowers'"),
        (("--task", "csv:table.csv"), "'csv' is reserved but not built yet"),
        (("--task", "jsonl:lines.jsonl"), "'jsonl' is reserved but not built yet"),
        (("--strategy", "tpee"), "Did you mean 'tpe'"),
        (("--pruner", "halvin"), "Did you mean 'halving'"),
        (("--pruner", "wilcoxon"), "--pruner wilcoxon compares folds, there are none"),
        (("--strategy", "greedy", "--option", "epsilom=1"), "Did you mean 'epsilon'"),
        (("--objective", "accuracy,cost", "--pruner", "median"), "median ignores cost"),
        (("--strategy", "tpe", "--supernet", "runs/x"), "--supernet is for strategies that learn"),
        (("--option", "epsilon"), "--option takes NAME=VALUE, got 'epsilon'"),
        (("--objective", "accuracy,speed"), "one of cost, bytes, latency, memory"),
        (("--objective", "f1,latency"), "objective must be accuracy and one of"),
        (("--space", "digit"), "Did you mean 'digits'"),
        (("--metric", "accurate"), "metric"),
        (("--granularity", "stage"), "granularity"),
        (("--device", "quantum"), "'quantum' is not"),
        (("--trails", "3"), "--trails"),
        (("--trials", "three"), "valid integer"),
        (("--trials", "0"), "trials"),
        (("--folds", "1"), "one fold leaves nothing to train on"),
        (("--head", "nowhere"), "nowhere"),
        (("--gpus-per-trial", "2"), "one GPU at most, got --gpus-per-trial 2"),
        (("--gpus-per-trial", "2", "--dry-run"), "one GPU at most, got --gpus-per-trial 2"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_name_or_number_that_is_not_known(refused, options, message):
    assert message in refused(*options)


def test_an_unknown_command(refused):
    assert "serach" in refused(command="serach")


def test_an_unknown_setting_of_a_configuration_names_the_nearest(refused):
    Path("config.yaml").write_text("trails: 3\n")
    assert "Did you mean 'trials'" in refused("--config", "config.yaml")


def test_every_wrong_setting_is_listed(refused):
    message = refused("--trials", "0", "--epochs", "-1", "--metric", "loss")
    assert all(name in message for name in ("trials", "epochs", "metric"))


# budgets


@pytest.mark.parametrize("text", ["lots", "", "1 %%", "50K", "1e3", "-5", "0", "0%", "101%", "1GB"])
def test_a_budget_that_does_not_read(refused, text):
    assert "budget" in refused("--budget", text).lower()


def test_a_budget_that_no_choice_fits_names_the_cheapest(refused):
    message = refused("--budget", "2")
    assert re.search(r"cheapest choice \(.+ in .+\) needs \d+", message)


def test_a_budget_of_one_parameter_offers_one_percent(refused):
    assert "Write 1%" in refused("--budget", "1")


def test_a_head_that_takes_the_whole_budget(refused):
    assert "already taken (head" in refused("--budget", "1290", "--count-head")


# files that are not there, or are something else


@pytest.mark.parametrize(
    "options",
    [
        ("--weights", "gone.safetensors"),
        ("--task", "npz:gone.npz"),
        ("--task", "imagefolder:gone"),
        ("--task", "python:gone.py:make"),
        ("--backbone", "python:gone.py:make"),
        ("--config", "gone.yaml"),
        ("--input", "gone.yaml"),
        ("--space", "gone.yaml"),
    ],
    ids=" ".join,
)
def test_a_file_that_is_not_there_is_named(refused, options):
    assert "gone" in refused(*options)


@pytest.mark.parametrize("option", ["--config", "--input", "--space"])
@pytest.mark.parametrize("content", ["a: [", "just text", "\x00"])
def test_a_file_that_is_no_yaml_mapping(refused, option, content):
    Path("file.yaml").write_text(content)
    assert "file.yaml" in refused(option, "file.yaml")


def test_a_weights_file_that_holds_no_tensors(refused):
    Path("weights.safetensors").write_bytes(b"not at all")
    assert "must hold tensors alone" in refused("--weights", "weights.safetensors")
    torch.save({"model": Path}, "weights.pth")
    assert "must hold tensors alone" in refused("--weights", "weights.pth")


def test_weights_that_do_not_match_name_the_first_keys(refused):
    state = DigitsNet().state_dict()
    save_file({k: v for k, v in state.items() if "layer1.0" not in k}, "weights.safetensors")
    message = refused("--weights", "weights.safetensors")
    assert "lacks" in message
    assert "layer1.0.conv1.weight" in message


def test_weights_of_another_network(refused):
    save_file({"encoder.weight": torch.zeros(3)}, "weights.safetensors")
    assert "conv1.weight" in refused("--weights", "weights.safetensors")


# search spaces


def test_an_unknown_key_of_a_search_space_is_named(refused):
    space = yaml.safe_load((space_folder() / "digits.yaml").read_text())
    Path("mine.yaml").write_text(yaml.safe_dump({**space, "choises": []}))
    assert "choises: this key is not known" in refused("--space", "mine.yaml")


def test_a_pattern_that_matches_nothing_is_named(refused):
    space = yaml.safe_load((space_folder() / "digits.yaml").read_text())
    space["units"]["block"]["fifth"] = r"layer5\."
    Path("mine.yaml").write_text(yaml.safe_dump(space))
    message = refused("--space", "mine.yaml")
    assert "'fifth'" in message
    assert "matches none" in message


def test_a_method_that_is_in_no_table(refused):
    space = yaml.safe_load((space_folder() / "digits.yaml").read_text())
    space["choices"].append({"lowrnk": {"rank": 2}})
    Path("mine.yaml").write_text(yaml.safe_dump(space))
    assert "Did you mean 'lowrank'" in refused("--space", "mine.yaml")


# data


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_train": None}, "y_train is missing"),
        ({"x_train": None}, "x_train is missing"),
        ({"y_test": np.arange(3)}, "x_test is missing"),
        ({"y_train": np.arange(59) % 3}, "equal length"),
        ({"y_train": np.zeros((60, 3))}, "as in regression"),
        ({"y_train": np.arange(60) % 3 - 1}, "--skip-unlabelled"),
        ({"y_train": np.linspace(0, 1, 60)}, "Labels must be integers"),
        ({"x_train": np.array([{}] * 60, dtype=object)}, "plain arrays"),
        ({"y_train": np.array(["a", 1, None] * 20, dtype=object)}, "plain arrays"),
        ({"x_train": np.full((60, 1, 8, 8), np.nan, np.float32)}, "finite"),
        ({"x_train": np.zeros((60, 1, 8, 8), complex)}, "complex128"),
        ({"x_train": np.zeros((0, 1, 8, 8)), "y_train": np.zeros(0, int)}, "at least one"),
        ({"y_train": np.zeros(60, int)}, "at least two classes"),
        ({"x_train": np.full((60, 1, 8, 8), 1e39)}, "read as float32"),
        ({"x_test": np.zeros((3, 1, 8, 8), np.float32), "y_test": np.array([0, 1, 9])}, "9"),
    ],
)
def test_arrays_that_cannot_be_used(refused, changes, message):
    assert message in refused("--task", npz(changes))


def test_a_file_that_is_no_npz(refused):
    Path("task.npz").write_bytes(b"not a zip")
    assert "task.npz" in refused("--task", "npz:task.npz")


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((60, 1, 9, 9), np.float32, "1×9×9"),
        ((60, 3, 8, 8), np.float32, "3×8×8"),
        ((60, 9, 9), np.uint8, "1×9×9"),
        ((60, 8, 8, 3), np.uint8, "3×8×8"),
        ((60, 8, 8, 2), np.uint8, "(60, 8, 8, 2)"),
        ((60, 64), np.float32, "64"),
    ],
)
def test_images_of_a_wrong_size_or_channel_count(refused, shape, dtype, message):
    assert message in refused("--task", npz({"x_train": np.zeros(shape, dtype)}))


def test_an_input_that_the_network_cannot_take(refused):
    """The description fits the data, but not the network: a small batch is tried first."""
    Path("input.yaml").write_text("{size: 8, channels: 3, mean: [0, 0, 0], std: [1, 1, 1]}")
    message = refused(
        "--task", npz({"x_train": np.zeros((60, 8, 8, 3), np.uint8)}), "--input", "input.yaml"
    )
    assert "must take the task's examples" in message


@pytest.mark.parametrize(("classes", "message"), [(0, "has none"), (1, "at least two classes")])
def test_a_image_folder_with_too_few_classes(refused, classes, message):
    Path("images").mkdir()
    assert message in refused("--task", images("images", classes))


def test_a_class_with_too_few_images(refused):
    assert "every class keeps an example" in refused("--task", images("images", 3, n=1))


def test_a_image_that_does_not_decode_is_named(refused):
    source = images("images", 2)
    Path("images/class0/broken.png").write_bytes(b"no image")
    assert "broken.png" in refused("--task", source)


# run folders


def test_a_named_folder_that_exists_is_refused(refused):
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("mine")
    assert "empty the folder yourself" in refused("--out", "mine")
    Path("mine/config.yaml").write_text("")
    assert "autotune resume mine" in refused("--out", "mine")


@pytest.mark.parametrize("command", ["resume", "status", "evaluate", "export"])
def test_a_run_folder_that_is_not_there(refused, command):
    assert "'nowhere'" in refused("nowhere", command=command)


@pytest.mark.parametrize("options", [("--trials", "0"), ("--workers", "0"), ("--trials", "-2")])
def test_resume_with_a_setting_that_cannot_be(refused, options, finished, call):
    before = (finished / "config.yaml").read_text()
    name = options[0].removeprefix("--")
    assert name in refused(finished, *options, command="resume")
    assert (finished / "config.yaml").read_text() == before


def test_a_storage_that_cannot_be_reached(refused):
    message = refused("--storage", "sqlite:////no/such/folder/study.db")
    assert "storage must be reachable" in message


def test_a_storage_that_has_a_study_already(refused, finished):
    """The finished run's own; what it holds stays as it was."""
    before = (finished / "study.db").read_bytes()
    message = refused("--storage", f"sqlite:///{finished / 'study.db'}")
    assert "holds one study" in message
    assert (finished / "study.db").read_bytes() == before


def test_several_budgets_do_not_fit_into_one_storage(refused):
    message = refused("--budget", "1%,0.5%", "--storage", "sqlite:///study.db")
    assert "A storage holds one study, got --storage sqlite:///study.db with 2 budgets" in message


def test_a_resumed_trial_takes_one_gpu_at_most(refused, finished):
    before = (finished / "config.yaml").read_text()
    assert "one GPU at most" in refused(finished, "--gpus-per-trial", "2", command="resume")
    assert (finished / "config.yaml").read_text() == before


def test_statistics_that_are_not_there_cannot_be_estimated(refused):
    Path("net.py").write_text(
        "from torch import nn\n"
        "def make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, 3))\n"
    )
    options = ("--backbone", "python:net.py:make", "--task", npz({}), "--budget", "50%")
    assert "--bnstats on" in refused(*options, "--bnstats", "on")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--format", "omnx"), "no format named 'omnx'. Did you mean 'onnx'?"),
        (
            ("--format", "merged", "--tensors", "mask.safetensors"),
            "--tensors needs the format mask",
        ),
        (("--trial", "99"), "trial 99 of"),
        (("--trial", "1", "--within", "1%"), "Leave one of them out"),
        (("--within", "lots"), "lots"),
        (("--within", "1"), "No trial of"),
    ],
)
def test_an_export_that_cannot_be(refused, finished, options, message):
    assert message in refused(finished, *options, command="export")
    assert list(Path().iterdir()) == []


def test_a_delta_file_is_no_run(refused, finished):
    delta = finished / "best" / "delta.safetensors"
    assert "need a run folder" in refused(delta, "--trial", "1", command="export")


@pytest.mark.parametrize("command", ["resume", "evaluate", "compare", "export", "predict"])
def test_code_that_a_run_folder_names_does_not_run(refused, tmp_path_factory, finished, command):
    """Whoever sends a folder does not decide what runs here."""
    copy = tmp_path_factory.mktemp("received") / "theirs"
    shutil.copytree(finished, copy)
    Path("net.py").write_text("raise SystemExit('it ran')\n")
    config = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(
        config.replace("backbone: builtin:digits", "backbone: python:net.py:make")
    )
    rest = ("some.npy",) if command == "predict" else ()
    message = refused(copy, *rest, command=command)
    assert "add --backbone python:net.py:make" in message


def test_predicting_what_is_not_there_or_of_another_size(refused, finished):
    assert "gone.npy" in refused(finished, "gone.npy", command="predict")
    np.save("small.npy", np.zeros((4, 1, 7, 7), np.float32))
    assert "(1, 7, 7)" in refused(finished, "small.npy", command="predict")


def test_debug_adds_the_traceback(call):
    code, _, err = call("search", "--budget", "lots", "--debug")
    assert code == 2
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("autotune: ")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize(
    "command", [("list", "formats"), ("status", "RUN"), ("status", "RUN", "--json")]
)
def test_output_that_cannot_be_written_is_no_damaged_run(finished, command):
    words = [str(finished) if word == "RUN" else word for word in command]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "autotune", *words],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 1
    assert done.stderr.startswith("autotune: The disk is full") and done.stderr.count("\n") == 1
