"""What a search shows while it runs: a live view on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console, RenderableType
from rich.live import Live

from autotune.run.progress import Standing, read_events
from autotune.utils.events import Callback, Event, event_of, listening, log

OFTEN = ("progress", "progress-of-trial", "start", "begin", "answer")
"""Kinds that would fill a log that people read."""

A_SECOND = 4
"""Redraws per second."""

ASKED_EVERY = 3.0
"""Seconds after which it is asked again whether a search of another process still runs."""


@contextmanager
def watching(*, quiet: bool, run: Path | None = None) -> Iterator[None]:
    """Show what the package tells on standard error until the block ends.

    Of a `run` that is gone on with, what its log tells is known from the beginning.
    """
    console = Console(stderr=True)
    if quiet:
        yield
    elif console.is_terminal and not console.is_dumb_terminal:
        with _viewed(console, _told(run)):
            yield
    else:
        with listening([Lines(console)]):
            yield


@contextmanager
def warned() -> Iterator[None]:
    """Show warnings alone on standard error until the block ends, for commands that only look."""
    handler = _Warnings(Console(stderr=True))
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


class Lines:
    """A line per event; epochs are left out."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def __call__(self, event: Event) -> None:
        if event.kind == "progress" and event.fields["done"] == 1:
            self.say(event.text + " …")
        if event.kind not in OFTEN:
            self.say(event.text)

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)


class _Warnings(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__(logging.WARNING)
        self.lines = Lines(console)

    def emit(self, record: logging.LogRecord) -> None:
        if event_of(record) is not None:
            self.lines.say(record.getMessage())


class _View:
    """The standing as it looks now, each time it is drawn."""

    def __init__(self, standing: Standing) -> None:
        self.standing = standing

    def __rich__(self) -> RenderableType:
        from autotune.cli.live_layout import view

        return view(self.standing, time.time())


@contextmanager
def _viewed(console: Console, standing: Standing) -> Iterator[None]:
    """On the terminal's other screen, which a resize leaves whole; warnings stay afterwards."""
    warnings: list[str] = []

    def see(event: Event) -> None:
        standing.see(event)
        if event.kind == "warning":
            warnings.append(event.text)

    try:
        with (
            Live(_View(standing), console=console, screen=True, refresh_per_second=A_SECOND),
            listening([see]),
        ):
            yield
    finally:
        for text in warnings:
            console.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)


def _told(run: Path | None) -> Standing:
    standing = Standing()
    for event, _ in read_events(run / "log.jsonl") if run else ():
        standing.see(event)
    return standing


def follow(run: Path, is_running: Callable[[], bool]) -> None:
    """Show a search of another process by its log, until it ends, stops, or Ctrl-C.

    Elsewhere than on a terminal its events are lines.
    """
    console = Console()
    if not console.is_terminal or console.is_dumb_terminal:
        _follow(run, is_running, Lines(console))
        return
    standing = Standing()
    with Live(_View(standing), console=console, screen=True, refresh_per_second=A_SECOND):
        _follow(run, is_running, standing.see)


def _follow(run: Path, is_running: Callable[[], bool], see: Callback) -> None:
    """Events as they are written; whether somebody still writes is asked every few seconds."""
    done, asked, goes_on = 0, 0.0, True
    while goes_on:
        if time.monotonic() - asked > ASKED_EVERY:
            goes_on, asked = is_running(), time.monotonic()
        for event, end in read_events(run / "log.jsonl", done):
            see(event)
            done = end
        if goes_on:
            time.sleep(1 / A_SECOND)
