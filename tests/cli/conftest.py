"""The command in this process or one of its own, and a finished search that tests look at."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autotune.backbones import load_backbone

SCRIPT = Path(sys.executable).parent / "autotune"

Done = subprocess.CompletedProcess[str]


def autotune(*arguments: object, ok: bool = True) -> Done:
    """Runs the console script in a process of its own; with `ok` it must exit with 0."""
    command = [str(SCRIPT), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 or not ok, done.stderr
    return done


@pytest.fixture(scope="session")
def output(call: Callable[..., tuple[int, str, str]]) -> Callable[..., str]:
    """What the command prints, which must exit with 0."""

    def run(*arguments: object) -> str:
        code, out, errors = call(*arguments)
        assert code == 0, errors
        return out

    return run


@pytest.fixture(scope="session")
def shown(output: Callable[..., str]) -> Callable[..., Any]:
    """The JSON that the command prints."""
    return lambda *arguments: json.loads(output(*arguments, "--json"))


@pytest.fixture(scope="session", autouse=True)
def pretrained(_own_cache: None) -> None:
    """The digits network is in the cache, so that no command says that it trains it."""
    load_backbone("builtin:digits")


@pytest.fixture(scope="session")
def finished(made_once: Callable[..., Path], output: Callable[..., str]) -> Path:
    """The folder of a small search that ran to its end; tests must not write into it."""
    how = ("--strategy", "random", "--trials", 3, "--epochs", 2)
    return made_once("finished/digits", lambda folder: output("search", *how, "--out", folder))
