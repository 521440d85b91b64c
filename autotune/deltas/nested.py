"""Modules whose smaller sizes are the beginning of their larger ones."""

from __future__ import annotations

from torch import nn


class Nested(nn.Module):
    """Module that uses only its first `size` ranks or channels."""

    size: int | None = None
    """Number of leading entries that are used; None means all."""
