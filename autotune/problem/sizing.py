"""The largest size that a price allows: widths and ranks that follow from a budget."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable

PriceOfSize = Callable[[int], int]


def largest_size(price: PriceOfSize, limit: int) -> int:
    """The largest size of at least 1 whose price keeps within the limit; 0 when none does.

    Prices never fall with the size. Where they stop rising (everything is taken), it is the
    smallest of the equally expensive sizes. Asks for few prices, as they are nearly straight lines.
    """
    if price(1) > limit:
        return 0
    low, high = 1, 2
    while price(high) <= limit:
        if price(high) == price(low):
            return 1 + bisect_left(range(1, low + 1), price(low), key=price)
        low, high = high, max(2 * high, high * limit // price(high))
    return _between(price, limit, low, high)


def _between(price: PriceOfSize, limit: int, low: int, high: int) -> int:
    """By turns where a straight line meets the limit, and the middle; `low` fits, `high` not."""
    straight = True
    while high - low > 1:
        rise = (limit - price(low)) * (high - low) // (price(high) - price(low))
        at = min(max(low + rise, low + 1), high - 1) if straight else (low + high) // 2
        low, high = (at, high) if price(at) <= limit else (low, at)
        straight = not straight
    return low
