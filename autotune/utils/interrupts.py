"""Ctrl-C, SIGTERM and SIGHUP end a search, even where Python discards exceptions."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

AT_ONCE = 0.05
"""Seconds within which several signals are one request.

`timeout` and job schedulers send the same signal to a process and to its group, microseconds apart;
nobody presses Ctrl-C twice as quickly.
"""

INSISTENT = (signal.SIGINT, signal.SIGTERM)
"""Signals that end a command at once when they come again.

A closed terminal may send SIGHUP several times, also through the shell.
"""

_requested = threading.Event()


class _State:
    """What the handler has to know; one per process, as signals are."""

    depth = 0
    """Number of blocks that are entered and not left."""

    first = 0.0
    """Time of the first signal of the outermost block, by the monotonic clock."""

    is_command = False
    """Whether the process is a command of autotune, which a second signal ends."""

    way_on = ""
    """Sentence that says how to continue, if there is something to continue."""

    last_acts: tuple[Callable[[], object], ...] = ()
    """Calls to make before the process ends at once, the latest first."""


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
    with _entered():
        before = {number: signal.signal(number, _interrupt) for number in ours}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def insistent() -> Iterator[None]:
    """Context of a command, which is all that its process does.

    Ctrl-C raises `KeyboardInterrupt`, so that the command ends in order. A second Ctrl-C or SIGTERM
    ends the process at once, and any signal after the block does so silently.
    """
    heeds = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with _entered():
        _State.is_command = True
        if heeds:
            signal.signal(signal.SIGINT, _interrupt)
        try:
            yield
        finally:
            _State.is_command = False
            if heeds:
                # Python's own handler would print a traceback while the interpreter shuts down.
                signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def resumable(way_on: str) -> Iterator[None]:
    """Context of work that can be continued, which is said if the process ends at once."""
    before, _State.way_on = _State.way_on, way_on
    try:
        yield
    finally:
        _State.way_on = before


@contextmanager
def ending_with(act: Callable[[], object]) -> Iterator[None]:
    """Context in which `act` is called before the process ends at once."""
    before = _State.last_acts
    _State.last_acts = (act, *before)
    try:
        yield
    finally:
        _State.last_acts = before


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Context in which no signal arrives, and none at the start of a process that it starts.

    The signals wait until it ends; a process that is started keeps them waiting until it asks.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGHUP))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore() -> None:
    """Ignore Ctrl-C and a closed terminal from now on: another process decides what they end."""
    signals = [signal.SIGINT, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    for number in signals:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)


def check() -> None:
    """Raise `KeyboardInterrupt` if a signal came but did not end the block; called per batch."""
    if _requested.is_set():
        raise KeyboardInterrupt


def is_requested() -> bool:
    """Whether a signal came since the outermost block began."""
    return _requested.is_set()


def forget() -> None:
    """Forget the signals that came: what they asked for is done."""
    _requested.clear()


@contextmanager
def _entered() -> Iterator[None]:
    """Context of a block; the signals that came are forgotten when the outermost one ends."""
    _State.depth += 1
    try:
        yield
    finally:
        _State.depth -= 1
        if not _State.depth:
            forget()


def _interrupt(number: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    if _State.is_command and _requested.is_set():
        if number in INSISTENT and now - _State.first > AT_ONCE:
            _end_at_once()
        return
    _State.first = now
    _requested.set()
    if not _is_lost(frame):
        raise KeyboardInterrupt


def _end_at_once() -> None:
    """End this process and those that it started, without waiting for anything."""
    for act in _State.last_acts:
        with suppress(Exception):
            act()
    for process in _children():
        with suppress(Exception):
            process.kill()
    with suppress(OSError):  # its terminal may be gone
        os.write(2, f"Interrupted again, so it ends at once. {_State.way_on}".strip().encode())
        os.write(2, b"\n")
    os._exit(130)


def _children() -> list[Any]:
    """Processes that were started with `multiprocessing`, which is not imported for this."""
    library = sys.modules.get("multiprocessing")
    return library.active_children() if library is not None else []


def _is_lost(frame: FrameType | None) -> bool:
    """Whether Python would discard an exception raised here: in destructors, weak references."""
    while frame is not None:
        if frame.f_code.co_name == "__del__" or frame.f_code.co_filename == weakref.__file__:
            return True
        frame = frame.f_back
    return False
