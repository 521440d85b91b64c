"""Seconds of a session by stage; each counts for the innermost stage that is open."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

STAGES = {
    "data": "reading examples or their cached outputs",
    "prefix": "computing the frozen part before a plan",
    "training": "training steps, and the start of each trial",
    "evaluation": "validation and test",
    "proposing": "learning of the policy, and proposing plans",
    "storage": "the study's records and files",
    "workers": "waiting for workers",
}
"""Stage of a session → its description for `--timings`."""

T = TypeVar("T")


class _Ledger:
    """Seconds per stage of one thread; other threads are not counted."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._open: list[str] = []
        self._since = time.perf_counter()

    def turn(self, stage: str | None) -> None:
        """Open a stage inside the current one or, with None, close the current one."""
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now
        if stage is None:
            self._open.pop()
        else:
            self._open.append(stage)


_ledger = _Ledger()


def reset() -> None:
    """Start counting from zero, for the calling thread."""
    global _ledger
    _ledger = _Ledger()


def counted() -> dict[str, float]:
    """Stage → seconds since `reset`, without stages that took none."""
    return {stage: seconds for stage, seconds in _ledger.seconds.items() if seconds}


@contextmanager
def spent(stage: str) -> Iterator[None]:
    """Count the seconds inside the block for a stage, except those of stages nested in it."""
    ledger = _ledger
    if threading.get_ident() != ledger.thread:
        yield
        return
    ledger.turn(stage)
    try:
        yield
    finally:
        ledger.turn(None)


def timed(stage: str, values: Iterator[T]) -> Iterator[T]:
    """Yield the values of an iterator, counting the time it takes for a stage."""
    exhausted = object()
    while True:
        with spent(stage):
            value = next(values, exhausted)
        if value is exhausted:
            return
        yield value  # type: ignore[misc]
