"""Limits on requests of the server: bytes, examples, waiting requests."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What one request, and all that wait, may ask for."""

    bytes: int = 10_000_000
    """Of a request's body."""

    examples: int = 64
    """Of a request, and of a batch."""

    waiting: int = 1000
    """Requests."""
