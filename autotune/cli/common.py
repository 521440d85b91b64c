"""Shared by all commands: the Typer application, common arguments and JSON output."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from autotune.cli.completion import runs
from autotune.errors import AutotuneError, RunError, brief, first_line
from autotune.utils.distribution import PACKAGE, installed_versions
from autotune.utils.filesystems import is_full
from autotune.utils.harmless import harmless
from autotune.utils.json_text import to_json_text
from autotune.utils.output import reserved_output, result_stream

app = typer.Typer(
    name="autotune",
    help="Find which layers of a pretrained network to fine-tune, and how, under a hard budget of "
    "trainable parameters.",
    epilog="Exit codes: 0 done, 1 failed, 2 wrong use, 130 interrupted. --debug shows tracebacks.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _reserve_output(context: typer.Context, is_requested: bool) -> bool:
    """Send to standard error what is not the result, such as the output of `python:` sources."""
    if is_requested and not context.resilient_parsing:
        context.with_resource(reserved_output())
    return is_requested


AsJson = Annotated[
    bool,
    typer.Option("--json", metavar="", callback=_reserve_output, help="Print the result as JSON."),
]
Run = Annotated[str, typer.Argument(metavar="RUN", help="Run folder.", autocompletion=runs)]
NamedBackbone = Annotated[
    str | None,
    typer.Option(
        metavar="SOURCE", help="Backbone. Default: the run's. Required for a python: source."
    ),
]
NamedTask = Annotated[
    str | None,
    typer.Option(metavar="SOURCE", help="Task. Default: the run's. Required for a python: source."),
]
NamedStorage = Annotated[
    str | None,
    typer.Option(
        "--storage",
        metavar="URL",
        help="Storage of the study. Required if only the run folder names one.",
    ),
]
NamedHeadFactory = Annotated[
    str | None,
    typer.Option(
        "--head-factory",
        metavar="FILE:FUNCTION",
        help="Function that makes heads. Required if the search had one.",
    ),
]


@contextmanager
def reading(run: str) -> Iterator[None]:
    """Context of a command that only looks at `run`, which may be damaged or come from others.

    Raises `RunError` for whatever cannot be read; `--debug` shows where.
    """
    try:
        yield
    except (AutotuneError, BrokenPipeError):
        raise
    except _UNREADABLE as error:
        if is_full(error):  # the output could not be written
            raise
        raise RunError(
            f"{run!r} cannot be read ({type(error).__name__}: {brief(first_line(error))}), so it "
            "is damaged, or another version wrote it. Restore it from a copy."
        ) from error


_UNREADABLE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
)


def show(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Print a text that may contain names from files, on standard output or error."""
    typer.echo(harmless(text), err=err, nl=nl)


def show_json(value: Any) -> None:
    """Print `value` as one JSON document on standard output."""
    typer.echo(to_json_text(value), file=result_stream())


def version(is_requested: bool) -> None:
    """Print the version and exit."""
    if is_requested:
        typer.echo(f"autotune {installed_versions(PACKAGE)[PACKAGE]}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", metavar="", callback=version, is_eager=True, help="Show the version."
        ),
    ] = False,
) -> None:
    pass
