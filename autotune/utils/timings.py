"""Where the seconds of a sitting go: each counts for one stage, the innermost that was open."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

STAGES = {
    "data": "reading examples, or what is kept of them",
    "prefix": "the frozen part before a plan",
    "training": "steps, and what a trial takes to begin",
    "evaluation": "on validation and test",
    "proposing": "the policy's learning, and plans",
    "storage": "the study's records and files",
    "workers": "waiting for workers",
}
"""Stages of a session, as `--timings` names them."""

T = TypeVar("T")


class _Ledger:
    """Clock of one thread; other threads count nothing."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._open: list[str] = []
        self._since = time.perf_counter()

    def turn(self, stage: str | None) -> None:
        """Another stage begins inside the last one, or (None) the last one ends."""
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
    """Count from zero."""
    global _ledger
    _ledger = _Ledger()


def counted() -> dict[str, float]:
    """Stage → seconds since `begin`, stages that took none left out."""
    return {stage: seconds for stage, seconds in _ledger.seconds.items() if seconds}


@contextmanager
def spent(stage: str) -> Iterator[None]:
    """Seconds inside count for a stage, but for those of stages that are inside it."""
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
    """What an iterator gives; its own seconds count for a stage."""
    nothing = object()
    while True:
        with spent(stage):
            value = next(values, nothing)
        if value is nothing:
            return
        yield value  # type: ignore[misc]
