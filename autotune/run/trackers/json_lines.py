"""JSON Lines: a file with one event per line, as in the run folder's `log.jsonl`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from autotune.errors import ConfigError, brief
from autotune.utils.events import Callback, Event
from autotune.utils.json_text import to_json_text
from autotune.utils.output import result_stream


@contextmanager
def json_lines(file: str) -> Iterator[Callback]:
    """Append to a file, or to standard output for `-`; each line is flushed at once."""
    if file == "-":
        yield lambda event: print(_line(event), flush=True, file=result_stream())
        return
    with _opened(file) as stream:
        yield lambda event: stream.write(_line(event) + "\n")


def _opened(file: str) -> TextIO:
    try:
        return Path(file).open("a", buffering=1, encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"Events go to a file that can be written, {brief(repr(file))} cannot ({reason})."
        ) from error


def _line(event: Event) -> str:
    return to_json_text(event.to_json(), indent=None)
