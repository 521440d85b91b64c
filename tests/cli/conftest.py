"""The console script in processes of its own, and one finished search that tests look at."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from autotune.backbones import load_backbone

SCRIPT = Path(sys.executable).parent / "autotune"

Done = subprocess.CompletedProcess[str]


def autotune(*arguments: object, ok: bool = True) -> Done:
    """Runs the command to its end; with `ok` it must exit with 0."""
    command = [str(SCRIPT), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 or not ok, done.stderr
    return done


def shown(*arguments: object) -> Any:
    """The JSON that the command prints."""
    return json.loads(autotune(*arguments, "--json").stdout)


@pytest.fixture(scope="session", autouse=True)
def pretrained(_own_cache: None) -> None:
    """The digits network is in the cache, so that no command says that it trains it."""
    load_backbone("builtin:digits")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small search that ran to its end; tests must not write into it."""
    folder = tmp_path_factory.mktemp("finished") / "digits"
    autotune("search", "--trials", 3, "--epochs", 2, "--out", folder)
    return folder
