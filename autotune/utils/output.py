"""Standard output that is reserved for a result, whatever the user's code prints."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from typing import TextIO

_streams: list[TextIO] = []
"""Streams of `reserved_output`, the innermost last."""


def result_stream() -> TextIO:
    """Stream of results: standard output, also while it is reserved."""
    return _streams[-1] if _streams else sys.stdout


@contextmanager
def reserved_output() -> Iterator[None]:
    """Context in which only `result_stream()` reaches standard output.

    Everything else, also of libraries in C and of other processes, goes to standard error.
    """
    with ExitStack() as stack:
        _streams.append(_moved(stack) if _is_descriptor(sys.stdout) else sys.stdout)
        stack.callback(_streams.pop)
        stack.enter_context(redirect_stdout(sys.stderr))
        yield


def _is_descriptor(stream: TextIO) -> bool:
    """Whether a stream is the process's own standard output, and none that captures it."""
    try:
        return stream.fileno() == 1 and sys.stderr.fileno() == 2
    except (OSError, AttributeError, ValueError):
        return False


def _moved(stack: ExitStack) -> TextIO:
    """Stream to what was standard output, which leads to standard error until the stack closes."""
    sys.stdout.flush()
    before = os.dup(1)
    os.dup2(2, 1)
    stack.callback(os.close, before)
    stack.callback(os.dup2, before, 1)
    stream = os.fdopen(os.dup(before), "w", encoding=sys.stdout.encoding, errors="replace")
    return stack.enter_context(stream)
