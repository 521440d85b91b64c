"""The largest size within a price, for widths and ranks that follow from a budget."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable

PriceOfSize = Callable[[int], int]


def largest_size(price: PriceOfSize, limit: int) -> int:
    """Largest size of at least 1 whose price is within the limit; 0 if there is none.

    `price` must not fall as the size grows. If it stops rising (a larger size has no effect), the
    smallest of the equally expensive sizes is returned. Computes few prices, as they are nearly
    linear in the size.
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
    """Search between `low`, which fits, and `high`, which does not.

    Interpolation alternates with bisection, which bounds the number of steps.
    """
    interpolates = True
    while high - low > 1:
        rise = (limit - price(low)) * (high - low) // (price(high) - price(low))
        size = min(max(low + rise, low + 1), high - 1) if interpolates else (low + high) // 2
        low, high = (size, high) if price(size) <= limit else (low, size)
        interpolates = not interpolates
    return low
