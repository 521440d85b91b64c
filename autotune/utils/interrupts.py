"""Ctrl-C and SIGTERM end a search, also when they come where an exception is lost."""

from __future__ import annotations

import signal
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_asked = threading.Event()


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGINT and SIGTERM, which a scheduler sends, raise `KeyboardInterrupt` until the block ends.

    At once, and where that was lost at the next `check`. A handler of the caller's for SIGINT
    stays. Outside of the main thread, where Python takes no signals, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) in (signal.default_int_handler, _interrupt):
        ours.append(signal.SIGINT)
    before = {number: signal.signal(number, _interrupt) for number in ours}
    try:
        yield
    finally:
        _asked.clear()
        for number, handler in before.items():
            signal.signal(number, handler)


def check() -> None:
    """Once a batch: raise `KeyboardInterrupt` where one was asked for and did not end the block."""
    if _asked.is_set():
        raise KeyboardInterrupt


def _interrupt(_: int, frame: FrameType | None) -> None:
    _asked.set()
    if not _is_lost(frame):
        raise KeyboardInterrupt


def _is_lost(frame: FrameType | None) -> bool:
    """Whether Python would print what is raised here and go on: destructors, weak references."""
    while frame is not None:
        if frame.f_code.co_name == "__del__" or frame.f_code.co_filename == weakref.__file__:
            return True
        frame = frame.f_back
    return False
