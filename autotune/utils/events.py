"""Events, sent through `logging`: a line of text and its machine-readable fields."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from autotune.errors import ConfigError

log = logging.getLogger("autotune")
log.addHandler(logging.NullHandler())


@dataclass(frozen=True)
class Event:
    """Something that happened in a search, as passed to callbacks and written to `log.jsonl`."""

    kind: str
    """Kind such as `stage`, `start`, `progress-of-trial`, `end`, `reference`, `warning`."""

    text: str
    """One line for people."""

    time: float
    """Seconds since 1970."""

    fields: Mapping[str, Any] = field(default_factory=dict)
    """Values that belong to the kind: `number`, `value`, `step`, `plan`, …"""

    def to_json(self) -> dict[str, Any]:
        """The event as one flat mapping, for `from_json`."""
        return {"time": self.time, "text": self.text, "kind": self.kind, **self.fields}

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> Event:
        """Event from a mapping that `to_json` returned."""
        fields = {k: v for k, v in line.items() if k not in ("kind", "text", "time")}
        return cls(line["kind"], line["text"], line["time"], fields)


Callback = Callable[[Event], object]
"""Anything that takes an event; its result is ignored."""


def tell(kind: str, text: str, *, level: int = logging.INFO, **fields: Any) -> None:
    """Log `text` with its fields; the command line, the run folder and callbacks listen."""
    log.log(level, text, extra={"event": {"kind": kind, **fields}})


def warn(text: str, **fields: Any) -> None:
    """Log a warning: something was not done as requested."""
    tell("warning", text, level=logging.WARNING, **fields)


def event_of(record: logging.LogRecord) -> Event | None:
    """Event that `tell` put into a log record; None for records of other code."""
    event: dict[str, Any] | None = getattr(record, "event", None)
    if event is None:
        return None
    fields = {k: v for k, v in event.items() if k != "kind"}
    return Event(event["kind"], record.getMessage(), record.created, fields)


@contextmanager
def listening(callbacks: Iterable[Callback]) -> Iterator[None]:
    """Pass every event to each callback until the block ends.

    A callback that raises causes a warning and gets no more events; the search continues.
    """
    handlers = [_Listener(_callable(callback)) for callback in callbacks]
    before = log.level
    if handlers:
        log.setLevel(min(logging.INFO, before) if before else logging.INFO)
    for handler in handlers:
        log.addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            log.removeHandler(handler)
        log.setLevel(before)


def _callable(callback: Callback) -> Callback:
    if not callable(callback):
        raise ConfigError(f"A callback takes an event, {callback!r} cannot be called.")
    return callback


class _Listener(logging.Handler):
    def __init__(self, callback: Callback) -> None:
        super().__init__()
        self.callback: Callback | None = callback

    def emit(self, record: logging.LogRecord) -> None:
        event, callback = event_of(record), self.callback
        if event is None or callback is None:
            return
        try:
            callback(event)
        except Exception as error:
            self.callback = None
            name = getattr(callback, "__qualname__", type(callback).__name__)
            kind = type(error).__name__
            warn(f"The callback {name} raised {kind}: {error}. It gets no more events.")
