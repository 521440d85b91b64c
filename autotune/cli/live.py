"""What a search shows while it runs: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from autotune.events import fields_of, log

QUIET_KINDS = ("progress", "progress-of-trial", "start")


@contextmanager
def watching(trials: int | None, *, quiet: bool) -> Iterator[None]:
    """Show what the package tells on standard error until the block ends."""
    console = Console(stderr=True)
    if quiet:
        yield
        return
    handler = _Live(console, trials) if console.is_terminal else _Lines(console)
    before = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before)
        handler.close()


@contextmanager
def warned() -> Iterator[None]:
    """Show warnings alone on standard error until the block ends, for commands that only look."""
    handler = _Lines(Console(stderr=True))
    handler.setLevel(logging.WARNING)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


class _Lines(logging.Handler):
    """A line per event; epochs are left out."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        fields = fields_of(record) or {}
        if fields.get("kind") == "progress" and fields["done"] == 1:
            self._say(record.getMessage() + " …")
        if fields.get("kind") not in QUIET_KINDS:
            self._say(record.getMessage())

    def _say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)


class _Live(logging.Handler):
    """One line that is drawn anew: stage, bar, best value so far, time left."""

    def __init__(self, console: Console, trials: int | None) -> None:
        super().__init__()
        self.total, self.done, self.began = trials, 0, time.monotonic()
        self.best: tuple[float, int] | None = None
        self.limit = 0
        self.bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[said]}", markup=False),
            console=console,
            transient=True,
        )
        self.task = self.bar.add_task("Loading", total=None, said="")
        self.bar.start()

    def emit(self, record: logging.LogRecord) -> None:
        fields = fields_of(record) or {}
        act = getattr(self, "_on_" + fields.get("kind", "").replace("-", "_"), None)
        if act is not None:
            act(fields, record.getMessage())
        elif record.levelno >= logging.WARNING:
            self.bar.console.print(record.getMessage(), style="yellow", markup=False)

    def close(self) -> None:
        self.bar.stop()
        super().close()

    def _on_progress(self, fields: dict[str, float], text: str) -> None:
        self.bar.update(
            self.task, description=text, completed=fields["done"], total=fields["total"], said=""
        )

    def _on_stage(self, fields: dict[str, float], text: str) -> None:
        self.began = time.monotonic()
        total = fields.get("total")
        self.limit = int(fields.get("limit") or self.limit)
        self.bar.reset(self.task, total=total, description=text, said=self._said())

    def _on_preparation(self, fields: dict[str, float], text: str) -> None:
        self.bar.console.print(text, highlight=False, markup=False)

    def _on_reference(self, fields: dict[str, float], text: str) -> None:
        self.bar.console.print(text, highlight=False, markup=False)

    def _on_empty(self, fields: dict[str, float], text: str) -> None:
        self.bar.console.print(text, highlight=False, markup=False)

    def _on_progress_of_trial(self, fields: dict[str, float], text: str) -> None:
        part = fields["step"] / fields["steps"]
        self.bar.update(self.task, completed=fields["number"] + part, said=self._said())

    def _on_repeat(self, fields: dict[str, float], text: str) -> None:
        self.done += 1
        self.bar.update(self.task, completed=fields["number"] + 1, said=self._said())

    def _on_end(self, fields: dict[str, float], text: str) -> None:
        self.done += 1
        if fields["value"] is not None and (self.best is None or fields["value"] > self.best[0]):
            self.best = fields["value"], int(fields["cost"])
        left = self._left(self.total - fields["number"] - 1) if self.total else ""
        self.bar.update(self.task, completed=fields["number"] + 1, said=self._said() + left)

    def _said(self) -> str:
        done = f"{self.done}/{self.total}" if self.total else str(self.done)
        if self.best is None:
            return f"{done} trials"
        value, cost = self.best
        share = f" ({100 * cost / self.limit:.0f} % of budget)" if self.limit else ""
        return f"{done} trials, best {value:.3f} with {cost:,}{share}"

    def _left(self, remaining: float) -> str:
        seconds = (time.monotonic() - self.began) / max(self.done, 1) * remaining
        return f", {seconds:.0f} s left" if remaining > 0 else ""
