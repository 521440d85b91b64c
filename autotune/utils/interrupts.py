"""Ctrl-C, SIGTERM and SIGHUP end a search, even where Python discards exceptions."""

from __future__ import annotations

import signal
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_requested = threading.Event()


@contextmanager
def interruptible() -> Iterator[None]:
    """Make signals that end a process raise `KeyboardInterrupt` inside the block.

    These are SIGINT, SIGTERM (sent by schedulers) and SIGHUP (a terminal is closed), unless it is
    ignored, as by `nohup`. They raise at once, or at the next `check` where the exception would be
    lost. The caller's own handler of SIGINT stays. Does nothing outside the main thread, which
    alone handles signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) in (signal.default_int_handler, _interrupt):
        ours.append(signal.SIGINT)
    hangup = getattr(signal, "SIGHUP", None)  # Windows has none
    if hangup is not None and signal.getsignal(hangup) in (signal.SIG_DFL, _interrupt):
        ours.append(hangup)
    before = {number: signal.signal(number, _interrupt) for number in ours}
    try:
        yield
    finally:
        _requested.clear()
        for number, handler in before.items():
            signal.signal(number, handler)


def check() -> None:
    """Raise `KeyboardInterrupt` if a signal came but did not end the block; called per batch."""
    if _requested.is_set():
        raise KeyboardInterrupt


def _interrupt(_: int, frame: FrameType | None) -> None:
    _requested.set()
    if not _is_lost(frame):
        raise KeyboardInterrupt


def _is_lost(frame: FrameType | None) -> bool:
    """Whether Python would discard an exception raised here: in destructors, weak references."""
    while frame is not None:
        if frame.f_code.co_name == "__del__" or frame.f_code.co_filename == weakref.__file__:
            return True
        frame = frame.f_back
    return False
