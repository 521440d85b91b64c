"""`autotune`: commands, exit codes, one line per error."""

from __future__ import annotations

import os
import shutil
import sys
import traceback
from typing import Any

import typer
from typer.models import CommandInfo

from autotune.cli import (  # noqa: F401  (they register their commands)
    compare,
    config,
    dashboard,
    doctor,
    evaluate,
    export,
    import_adapter,
    init,
    inspect,
    list_names,
    predict,
    profile,
    report,
    search,
    serve,
    status,
    units,
)
from autotune.cli.common import app
from autotune.errors import AutotuneError

_mro: tuple[Any, ...] = typer.BadParameter.__mro__
_ClickError: type[Exception] = next(c for c in _mro if c.__name__ == "ClickException")
"""Typer brings click along, under a name that is its own affair."""

GROUPS = {
    "Search": "init search resume profile compare".split(),
    "Look": "status report dashboard config inspect units list doctor".split(),
    "Use": "evaluate predict export import serve".split(),
}
"""Commands in the order in which help shows them; others come first."""


def arrange() -> None:
    """The commands in their groups."""
    commands = {name_of(command): command for command in app.registered_commands}
    for group, names in GROUPS.items():
        for name in names:
            commands[name].rich_help_panel = group
            app.registered_commands.remove(commands[name])
            app.registered_commands.append(commands[name])


def name_of(command: CommandInfo) -> str:
    """As it is typed."""
    return command.name or str(getattr(command.callback, "__name__", ""))


arrange()


def main() -> None:
    """Entry point of the console script."""
    be_plain()
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        ended = app(arguments, standalone_mode=False)
        code = ended if isinstance(ended, int) else 0
    except _ClickError as error:
        code = _failed(_said(error), 2, debug)
    except AutotuneError as error:
        code = _failed(str(error), error.exit_code, debug)
    except (KeyboardInterrupt, typer.Abort):
        code = _failed("Interrupted.", 130, debug)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)


def be_plain() -> None:
    """With `NO_COLOR` no escape codes at all, bold and moving ones neither, as with `TERM=dumb`."""
    if os.environ.get("NO_COLOR"):
        os.environ["COLUMNS"] = str(shutil.get_terminal_size().columns)
        os.environ["TERM"] = "dumb"


def _said(error: Any) -> str:
    if not error.format_message():
        return ""
    context = getattr(error, "ctx", None)
    help_of = f"{context.command_path} --help" if context else "autotune --help"
    return f"{error.format_message().rstrip('.')}. See {help_of}."


def _failed(text: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    if not text:
        return code
    line = " ".join(text.split())
    typer.echo(line if code == 130 else f"autotune: {line}", err=True)
    return code
