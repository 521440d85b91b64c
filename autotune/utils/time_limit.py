"""Time limit for code that cannot be asked to stop."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class OutOfTime(BaseException):
    """A block of `time_limit` took too long; not an `Exception`, which its code might catch."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Context that raises `OutOfTime` if its block takes more than `seconds`.

    Works in the main thread, where signals arrive, and not on Windows; elsewhere there is no limit.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGALRM"):
        yield
        return

    def stop(*_: Any) -> None:
        raise OutOfTime

    former, began = signal.signal(signal.SIGALRM, stop), time.monotonic()
    waiting, interval = signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-6))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)
        if waiting:  # an alarm of the caller's goes on
            left = max(waiting - (time.monotonic() - began), 1e-6)
            signal.setitimer(signal.ITIMER_REAL, left, interval)
