"""Limits of the server: bytes and examples per request, and waiting requests."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Limits on one request and on all requests that wait."""

    bytes: int = 10_000_000
    """Largest body of a request in bytes; a large photograph fits."""

    examples: int = 64
    """Most examples per request and per batch of the network."""

    waiting: int = 1000
    """Most requests in progress; further ones are refused with status 503."""

    seconds: float = 30.0
    """Time until the body of a request must have arrived, else status 408."""
