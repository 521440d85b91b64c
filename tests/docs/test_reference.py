"""The reference leaves no name and no command out."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import autotune

ROOT = Path(__file__).parent.parent.parent
SCRIPT = ROOT / ".ci" / "command_line.py"


def test_the_page_of_python_has_each_name_of_the_facade_once():
    page = (ROOT / "docs" / "reference" / "python.md").read_text()
    told = re.findall(r"^::: autotune\.(\w+)$", page, re.M)
    assert sorted(told) == sorted([*autotune.__all__, "errors"])


@pytest.mark.skipif(not SCRIPT.is_file(), reason="a source distribution has no .ci folder")
def test_the_page_of_commands_has_each_command_with_its_options():
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=True)
    commands = dict(re.findall(r"^## autotune (\S+)\n(.*?)(?=^## |\Z)", done.stdout, re.M | re.S))
    assert {"search", "resume", "report", "init", "config", "serve"} <= commands.keys()
    assert "`--budget LIMIT`" in commands["search"] and "`RUN`" in commands["resume"]
    assert all("| option | |" in text for text in commands.values())
