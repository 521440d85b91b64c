"""What happens, told through the standard log: a line of text and, for machines, its fields."""

from __future__ import annotations

import logging
from typing import Any

log = logging.getLogger("autotune")
log.addHandler(logging.NullHandler())


def tell(kind: str, text: str, *, level: int = logging.INFO, **fields: Any) -> None:
    """Log `text` with an `event` record; the command line and the run folder listen to these."""
    log.log(level, text, extra={"event": {"kind": kind, **fields}})


def warn(text: str, **fields: Any) -> None:
    """Something did not happen as asked."""
    tell("warning", text, level=logging.WARNING, **fields)


def fields_of(record: logging.LogRecord) -> dict[str, Any] | None:
    """The fields that `tell` put into a log record."""
    return getattr(record, "event", None)
