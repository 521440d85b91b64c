"""JSON Lines: a file with one event per line, as in the run folder's `log.jsonl`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from autotune.errors import ConfigError
from autotune.utils.events import Callback, Event
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
        return Path(file).open("a", buffering=1)
    except OSError as error:
        raise ConfigError(
            f"Events go to a file that can be written, {file!r} cannot ({error.strerror})."
        ) from error


def _line(event: Event) -> str:
    return json.dumps(event.to_json(), default=str)
