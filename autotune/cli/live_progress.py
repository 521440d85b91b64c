"""Progress of a search: a live view on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console, RenderableType
from rich.live import Live

from autotune.cli.console import Harmless, harmless_console
from autotune.run.progress import Standing, catch_up, long_log_end, read_events
from autotune.utils.events import Callback, Event, event_of, listening, log
from autotune.utils.interrupts import ending_with

UNPRINTED = ("progress", "progress-of-trial", "start", "begin", "answer")
"""Kinds of event that get no line of their own: too frequent, or shown elsewhere."""

REFRESH_RATE = 4
"""Redraws per second, and checks of the log per second when another process is watched.

A higher rate makes the clock and the bar smoother and takes CPU time from the search.
"""

STATE_INTERVAL = 3.0
"""Seconds between checks whether a watched search still runs.

A check reads the storage, which is slower than reading the log; a longer interval ends the watch
later.
"""


@contextmanager
def watching(*, quiet: bool, run: Path | None = None) -> Iterator[None]:
    """Show events on standard error until the block ends.

    For a resumed search, `run` is its folder: the view starts from the events in its log.
    """
    console = harmless_console(Console(stderr=True))
    if quiet:
        yield
    elif console.is_terminal and not console.is_dumb_terminal:
        with _viewed(console, _standing(run)):
            yield
    else:
        with listening([Lines(console)]):
            yield


@contextmanager
def in_lines() -> Iterator[None]:
    """Show events as lines on standard error until the block ends, for commands without a view."""
    with listening([Lines(Console(stderr=True))]):
        yield


@contextmanager
def warned() -> Iterator[None]:
    """Show only warnings on standard error until the block ends, for commands without progress."""
    handler = _Warnings(harmless_console(Console(stderr=True)))
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


class Lines:
    """Print one line per event, except frequent ones; of progress, only the first step."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def __call__(self, event: Event) -> None:
        if event.kind == "progress" and event.fields["done"] == 1:
            self.write(event.text + " …")
        if event.kind not in UNPRINTED:
            self.write(event.text)

    def write(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)


class _Warnings(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__(logging.WARNING)
        self.lines = Lines(console)

    def emit(self, record: logging.LogRecord) -> None:
        if event_of(record) is not None:
            self.lines.write(record.getMessage())


class _View:
    """Renderable that lays out the standing anew at each redraw, so that the clock advances."""

    def __init__(self, standing: Standing) -> None:
        self.standing = standing

    def __rich__(self) -> RenderableType:
        from autotune.cli.live_layout import view

        return Harmless(view(self.standing, time.time()))


@contextmanager
def _viewed(console: Console, standing: Standing) -> Iterator[None]:
    """Show the live view until the block ends, then print the warnings that it showed.

    It uses the alternate screen: on the normal one, a resize wraps the lines already drawn.
    """
    warnings: list[str] = []

    def see(event: Event) -> None:
        standing.see(event)
        if event.kind == "warning":
            warnings.append(event.text)

    try:
        with ending_with(_leave_screen), _live(standing, console), listening([see]):
            yield
    finally:
        for text in warnings:
            console.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)


def _live(standing: Standing, console: Console) -> Live:
    return Live(_View(standing), console=console, screen=True, refresh_per_second=REFRESH_RATE)


def _leave_screen() -> None:
    """Show the normal screen and the cursor again, without the locks of rich's own thread."""
    os.write(2, b"\x1b[?1049l\x1b[?25h")


def _standing(run: Path | None) -> Standing:
    standing = Standing()
    for event, _ in catch_up(run / "log.jsonl") if run else ():
        standing.see(event)
    return standing


def follow(run: Path, is_running: Callable[[], bool]) -> None:
    """Show the search of another process, read from its log, until it ends or stops.

    Without a terminal, print one line per event.
    """
    console, log_file = harmless_console(Console()), run / "log.jsonl"
    if not console.is_terminal or console.is_dumb_terminal:
        lines = Lines(console)
        if start := long_log_end(log_file):
            lines.write(f"{log_file} is long: these are its last events.")
        _follow(log_file, start, is_running, lines)
        return
    standing, start = Standing(), long_log_end(log_file)
    is_running()  # imports what reads the state: Ctrl-C in an import would leave it broken
    with ending_with(_leave_screen), _live(standing, console):
        for event, end in catch_up(log_file):
            standing.see(event)
            start = end
        _follow(log_file, start, is_running, standing.see)


def _follow(log_file: Path, offset: int, is_running: Callable[[], bool], see: Callback) -> None:
    """Pass events from a byte of the log on to `see`, until the search no longer runs."""
    checked, runs = 0.0, True
    while runs:
        # The state is checked before the log is read, so that the last events are not missed.
        if time.monotonic() - checked > STATE_INTERVAL:
            runs, checked = is_running(), time.monotonic()
        for event, end in read_events(log_file, offset):
            see(event)
            offset = end
        if runs:
            time.sleep(1 / REFRESH_RATE)
