"""Every command has an example, every option a text; no escape codes where none may be."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from inspect import signature, unwrap
from typing import Any

import pytest
import typer

from autotune import __version__
from autotune.cli.app import GROUPS, app, name_of
from autotune.run.settings import descriptions

from .conftest import SCRIPT

COMMANDS: dict[str, Any] = typer.main.get_command(app).commands


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example_and_a_text_for_each_option(name):
    command = COMMANDS[name]
    assert f"Example: autotune {name} " in f"{command.help} "
    for param in command.params:
        assert param.help, f"{name}: {param.name} has no help"


def test_examples_are_commands_that_exist_with_options_that_exist():
    for name, command in COMMANDS.items():
        words = command.help.partition("Example: autotune ")[2].split()
        options = {option for param in command.params for option in param.opts}
        assert {word for word in words if word.startswith("-")} <= options, name


def test_every_command_is_in_a_group():
    grouped = [name for names in GROUPS.values() for name in names]
    assert [name_of(command) for command in app.registered_commands] == grouped


def test_exit_codes_are_reported(call):
    code, out, _ = call("--help")
    assert code == 0
    assert "0 done, 1 failed, 2 wrong use, 130 interrupted" in " ".join(out.split())


def test_the_version_is_that_of_the_package(call):
    assert call("--version") == (0, f"autotune {__version__}\n", "")


def test_search_shows_every_setting_in_its_panel_and_order():
    shown = [p for p in COMMANDS["search"].params if not p.hidden]
    by_name = {p.name: p for p in shown if p.name in descriptions()}
    assert list(by_name) == list(descriptions())
    for name, setting in descriptions().items():
        assert by_name[name].rich_help_panel == setting.panel.value
        assert by_name[name].metavar == setting.metavar


def test_no_command_has_a_long_list_of_arguments():
    """Its options are made from the settings."""
    for command in app.registered_commands:
        assert len(signature(unwrap(command.callback)).parameters) <= 15


HELP = """
import json, sys
from autotune import __version__
from autotune.cli.app import app
app(["search", "--help"], standalone_mode=False)
print(json.dumps(sorted({name.split(".")[0] for name in sys.modules})))
"""


def test_help_of_search_imports_nothing_heavy():
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=True)
    *shown, last = done.stdout.splitlines()
    assert any("--fuse-batchnorm" in line for line in shown)
    assert not {"torch", "optuna", "ray", "sklearn"} & set(json.loads(last))


@pytest.mark.parametrize(
    ("settings", "plain"),
    [({}, False), ({"NO_COLOR": "1"}, True), ({"TERM": "dumb"}, True)],
    ids=["terminal", "no color", "dumb"],
)
def test_escape_codes_on_a_terminal(settings, plain):
    reader, terminal = pty.openpty()
    kept = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
    environment = {**kept, "TERM": "xterm", **settings}
    subprocess.run([SCRIPT, "list", "--help"], stdout=terminal, env=environment, check=True)
    os.close(terminal)
    shown = os.read(reader, 10_000)
    os.close(reader)
    assert b"Usage" in shown
    assert (b"\x1b" not in shown) is plain


def test_tables_are_plain_without_color_even_when_color_is_forced(call, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    assert "\x1b" in call("list", "methods")[1]
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in call("list", "methods")[1]
