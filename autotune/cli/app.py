"""`autotune`: commands, exit codes, one line per error."""

from __future__ import annotations

import json
import os
import sys
import traceback
from typing import Annotated, Any

import click
import typer

from autotune.errors import AutotuneError

app = typer.Typer(
    name="autotune",
    help="Finds which layers of a pretrained network to change, and how, under a hard budget of "
    "trainable parameters.",
    epilog="Exit codes: 0 done, 1 failed, 2 wrong use, 130 interrupted. --debug shows tracebacks.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def main() -> None:
    """Entry point of the console script."""
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        ended = app(arguments, standalone_mode=False)
        code = ended if isinstance(ended, int) else 0
    except click.ClickException as error:
        code = _failed(error.format_message(), error.exit_code, debug)
    except AutotuneError as error:
        code = _failed(str(error), error.exit_code, debug)
    except (KeyboardInterrupt, click.Abort):
        code = _failed("Interrupted.", 130, debug)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)


def show_json(value: Any) -> None:
    """One JSON document on standard output."""
    typer.echo(json.dumps(value, indent=2, default=str))


def _failed(text: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    line = " ".join(text.split())
    typer.echo(line if code == 130 else f"autotune: {line}", err=True)
    return code


def version(asked: bool) -> None:
    """`--version`: the version, and nothing else."""
    if asked:
        from autotune import __version__

        typer.echo(f"autotune {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


from autotune.cli import look, search, use  # noqa: E402, F401  (they register their commands)
