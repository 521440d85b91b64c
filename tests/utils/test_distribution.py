"""The distribution is named once; on the public index `autotune` is somebody else's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from autotune.utils.distribution import (
    DISTRIBUTION,
    install_command,
    installed_version,
    installed_versions,
)

ROOT = Path(__file__).parents[2]
PLACES = ("README.md", "pyproject.toml", "autotune", "docs", "examples", "benchmarks", ".github")
STRANGER = re.compile(r"(?<!torch-)\bautotune\\?\[|pip install ['\"]?autotune\b")


def texts() -> list[Path]:
    files = [file for place in PLACES for file in [ROOT / place, *(ROOT / place).rglob("*")]]
    return [f for f in files if f.suffix in (".py", ".md", ".toml", ".ipynb", ".yaml", ".html")]


def test_nothing_reports_to_install_the_package_of_a_stranger():
    assert len(texts()) > 200
    wrong = [str(file) for file in texts() if STRANGER.search(file.read_text())]
    assert not wrong


@pytest.mark.parametrize("text", ["pip install autotune", "'autotune[serve]'", r"autotune\[x\]"])
def test_the_search_for_it_finds_it(text):
    assert STRANGER.search(text)
    assert not STRANGER.search(text.replace("autotune", "torch-autotune"))


def test_the_distribution_is_the_one_that_is_built():
    assert f'name = "{DISTRIBUTION}"' in (ROOT / "pyproject.toml").read_text()
    assert install_command("serve") == "pip install 'torch-autotune[serve]'"


def test_versions_are_those_that_are_installed():
    assert installed_version("autotune") == installed_version(DISTRIBUTION) is not None
    assert installed_versions("autotune", "no-such-package")["no-such-package"] == "not installed"
