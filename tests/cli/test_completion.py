"""What shells offer after a tab, by the protocol they speak and in the shells themselves."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from autotune.deltas import METHODS
from autotune.deploy.export import FORMATS
from autotune.run.settings import descriptions, space_names
from autotune.study.backends import BACKENDS
from autotune.study.pruners import PRUNERS
from autotune.study.strategies import STRATEGIES

from .conftest import SCRIPT


@pytest.fixture
def offered(call, monkeypatch):
    """Names that bash is offered for the last word."""

    def ask(*words: str) -> list[str]:
        monkeypatch.setenv("_AUTOTUNE_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", "\n".join(["autotune", *words]))
        monkeypatch.setenv("COMP_CWORD", str(len(words)))
        code, out, err = call()
        assert (code, err) == (0, "")
        return out.split()

    return ask


@pytest.fixture
def runs(tmp_path, monkeypatch) -> list[str]:
    """Two run folders below runs/, one beside it, and a folder that is none."""
    monkeypatch.chdir(tmp_path)
    folders = ["runs/cars", "runs/cats", "running"]
    for folder in folders:
        Path(folder).mkdir(parents=True)
        Path(folder, "config.yaml").touch()
    Path("runs/cache").mkdir()
    return folders


def test_run_folders_are_offered(offered, runs):
    assert offered("resume", "") == sorted(runs)
    assert offered("config", "runs/ca") == ["runs/cars", "runs/cats"]
    assert offered("export", "runs/cat") == ["runs/cats"]
    assert offered("search", "--supernet", "run") == sorted(runs)
    assert offered("evaluate", "runs/[") == []


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (("search", "--space", "res"), ["resnet"]),
        (("search", "--space", ""), list(space_names())),
        (("search", "--strategy", "g"), ["greedy", "gp"]),
        (("search", "--pruner", "h"), ["halving", "hyperband"]),
        (("search", "--metric", ""), ["accuracy", "balanced_accuracy", "f1", "auroc"]),
        (("search", "--backend", ""), ["auto", *BACKENDS.names()]),
        (("search", "--augment", "f"), ["flip"]),
        (("resume", "runs/x", "--backend", "p"), ["processes"]),
        (("profile", "--choices", "low"), ["lowrank"]),
        (("profile", "--choices", "scale,low"), ["scale,lowrank"]),
        (("profile", "--choices", ""), list(METHODS.names())),
        (("export", "runs/x", "--format", ""), list(FORMATS.names())),
        (("evaluate", "runs/x", "--part", "t"), ["test", "train"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_names_are_offered(offered, words, names):
    assert offered(*words) == names


def test_commands_are_offered(offered):
    assert {"search", "serve"} <= set(offered("se"))


def test_tables_are_offered_whole():
    assert list(descriptions()["pruner"].values) == list(PRUNERS.names())
    apart = {"profile"}  # the strategy of `autotune profile`
    assert set(descriptions()["strategy"].values) == set(STRATEGIES.names()) - apart


LIGHT = """
import json, sys
from autotune.cli import completion as complete
complete.runs(""), complete.spaces(""), complete.methods(""), complete.formats("")
print(json.dumps(sorted({name.split(".")[0] for name in sys.modules})))
"""


def test_completion_imports_nothing_heavy():
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True)
    assert not {"torch", "optuna", "ray", "numpy", "sklearn"} & set(json.loads(done.stdout))


BASH = """
. <(_AUTOTUNE_COMPLETE=source_bash autotune)
COMP_WORDS=(autotune resume runs/) COMP_CWORD=2
_autotune_completion autotune
printf '%s\\n' "${COMPREPLY[@]}"
"""
ZSH = """
compdef() { :; }
_arguments() { print -r -- "$@"; }
eval "$(_AUTOTUNE_COMPLETE=source_zsh autotune)"
words=(autotune resume runs/) CURRENT=3
_autotune_completion
"""
FISH = """
_AUTOTUNE_COMPLETE=source_fish autotune | source
complete -C "autotune resume runs/"
"""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_real_shell_offers_run_folders(shell, runs, monkeypatch):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    monkeypatch.setenv("PATH", str(SCRIPT.parent), prepend=":")
    script = {"bash": BASH, "zsh": ZSH, "fish": FISH}[shell]
    no_files = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
    done = subprocess.run([shell, *no_files, "-c", script], capture_output=True, text=True)
    assert done.stderr == ""
    assert "runs/cars" in done.stdout and "runs/cats" in done.stdout
    assert "runs/cache" not in done.stdout
