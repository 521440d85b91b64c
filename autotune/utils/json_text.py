"""JSON that every reader accepts."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def to_json_text(value: Any, *, indent: int | None = 2) -> str:
    """The value as JSON; NaN and infinity, which JSON does not have, become null."""
    return json.dumps(_finite(value), indent=indent, default=_plain, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {_key(key): _finite(part) for key, part in value.items()}
    return [_finite(part) for part in value] if isinstance(value, list | tuple) else value


def _key(key: Any) -> Any:
    return key if isinstance(key, str | int | None) else str(key)


def _plain(value: Any) -> Any:
    return _finite(value.item()) if hasattr(value, "item") else str(value)
