"""Entry point of `autotune`: command groups, exit codes and one-line error messages."""

from __future__ import annotations

import os
import shutil
import sys
import traceback
from contextlib import suppress
from io import TextIOWrapper
from typing import Any

import typer
from typer.models import CommandInfo

from autotune.cli import (  # noqa: F401  (importing a module registers its command)
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
from autotune.cli.common import app, show
from autotune.errors import AutotuneError, Interrupted, first_line
from autotune.utils import interrupts
from autotune.utils.filesystems import is_full

_mro: tuple[Any, ...] = typer.BadParameter.__mro__
_ClickError: type[Exception] = next(c for c in _mro if c.__name__ == "ClickException")
"""Base class of click's errors.

Some versions of Typer vendor click, so the class is looked up rather than imported."""

GROUPS = {
    "Search": "init search resume profile compare".split(),
    "Inspect": "status report dashboard config inspect units list doctor".split(),
    "Use": "evaluate predict export import serve".split(),
}
"""Help panel → its commands, in the order in which help lists them."""


def arrange() -> None:
    """Sort the registered commands into their help panels."""
    commands = {name_of(command): command for command in app.registered_commands}
    for group, names in GROUPS.items():
        for name in names:
            commands[name].rich_help_panel = group
            app.registered_commands.remove(commands[name])
            app.registered_commands.append(commands[name])


def name_of(command: CommandInfo) -> str:
    """Name of a command as it is typed."""
    return command.name or str(getattr(command.callback, "__name__", ""))


arrange()


def main() -> None:
    """Run the command line and exit with its code."""
    be_plain()
    be_lenient()
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        # Outside standalone mode, `typer.Exit(n)` makes the call return n.
        result = app(arguments, standalone_mode=False)
        code = result if isinstance(result, int) else 0
        if code == Interrupted.exit_code:  # Typer makes this of Ctrl-C
            code = _failed("Interrupted.", code, debug)
    except _ClickError as error:
        code = _failed(_usage_error(error), 2, debug)
    except AutotuneError as error:
        code = _failed(*_shown(error), debug)
    except (KeyboardInterrupt, typer.Abort):
        code = _failed("Interrupted.", Interrupted.exit_code, debug)
    except BrokenPipeError:
        _silence_output()  # the reader (`| head`) is gone
        code = 1
    except OSError as error:
        if not is_full(error):
            raise
        _silence_output()  # what is still buffered cannot be written either
        code = _failed(
            f"The disk is full ({first_line(error)}). Make room, then try again.", 1, debug
        )
    sys.exit(code)


def _silence_output() -> None:
    """Drop what standard output still holds: the flush at exit would raise again."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def be_plain() -> None:
    """Print no escape codes at all under `NO_COLOR`, as under `TERM=dumb`."""
    if os.environ.get("NO_COLOR"):
        # rich assumes 80 columns on a dumb terminal, so the real width is passed on.
        os.environ["COLUMNS"] = str(shutil.get_terminal_size().columns)
        os.environ["TERM"] = "dumb"


def be_lenient() -> None:
    """Replace characters that standard output or error cannot show, instead of failing.

    A console or a file may have a code page with few characters, and a file name may have none.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")


def _shown(error: AutotuneError) -> tuple[str, int]:
    """Message and exit code of an error.

    After Ctrl-C it says no more than that: an interrupted import looks like a missing library.
    """
    if interrupts.is_requested() and not isinstance(error, Interrupted):
        return "Interrupted.", Interrupted.exit_code
    return str(error), error.exit_code


def _usage_error(error: Any) -> str:
    if not error.format_message():
        return ""
    context = getattr(error, "ctx", None)
    help_command = f"{context.command_path} --help" if context else "autotune --help"
    return f"{error.format_message().rstrip('.')}. See {help_command}."


def _failed(text: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    if not text:
        return code
    line = " ".join(text.split())
    with suppress(OSError):  # its terminal may be gone
        show(line if code == Interrupted.exit_code else f"autotune: {line}", err=True)
    return code
