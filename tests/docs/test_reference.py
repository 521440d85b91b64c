"""The reference leaves no name and no command out."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

import autotune
from autotune.cli.app import app
from autotune.run.settings import descriptions

ROOT = Path(__file__).parent.parent.parent
SCRIPT = ROOT / ".ci" / "command_line.py"


def test_the_page_of_python_has_each_name_of_the_facade_once():
    page = (ROOT / "docs" / "reference" / "python.md").read_text()
    documented = re.findall(r"^::: autotune\.(\w+)$", page, re.M)
    assert sorted(documented) == sorted([*autotune.__all__, "errors"])


@pytest.mark.skipif(not SCRIPT.is_file(), reason="a source distribution has no .ci folder")
def test_the_page_of_commands_has_each_command_with_its_options():
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=True)
    commands = dict(re.findall(r"^## autotune (\S+)\n(.*?)(?=^## |\Z)", done.stdout, re.M | re.S))
    assert {"search", "resume", "report", "init", "config", "serve"} <= commands.keys()
    assert "`--budget LIMIT`" in commands["search"] and "`RUN`" in commands["resume"]
    assert all("| option | |" in text for text in commands.values())


PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_options_that_a_page_names_are_options_of_a_command(page):
    commands: Any = typer.main.get_command(app).commands
    params = [param for command in commands.values() for param in command.params]
    shown = [param for param in params if not getattr(param, "hidden", False)]
    options = {option for param in shown for option in param.opts}
    named = set(re.findall(r"`(--[a-z][a-z-]*)", page.read_text()))
    assert named <= options | {"--debug", "--help", "--version"}


def test_the_page_on_performance_has_the_defaults_of_settings():
    page = (ROOT / "docs" / "performance.md").read_text()
    defaults = dict(re.findall(r"^\| `--(cache-[a-z]+|views)[^|]*\| (\S+) \|", page, re.M))
    assert len(defaults) == 4
    for name, default in defaults.items():
        assert default == str(descriptions()[name.replace("-", "_")].default)
