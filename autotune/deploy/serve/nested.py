"""Checks of nested lists from a request, before an array is made of them.

numpy would give every text of a list the length of the longest, and every number of digits an
object: a small request could fill memory.
"""

from __future__ import annotations

import math
from typing import Any

from autotune.errors import TaskError

MAX_DIMENSIONS = 8

DTYPES = frozenset(
    "uint8 uint16 uint32 uint64 int8 int16 int32 int64 float16 float32 float64".split()
)
"""Numeric dtypes that a request may name."""


def check_dtype(dtype: Any) -> str:
    """The dtype that a request names; raises `TaskError` for one that is not numeric."""
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise TaskError(f"Inputs must have a numeric dtype, one of {', '.join(sorted(DTYPES))}.")
    return dtype


def check_nested(values: Any, example: tuple[int, ...], most: int) -> None:
    """Raise `TaskError` unless `values` are numbers in lists of equal lengths, and not too many.

    `example` is the shape of one example, of which a request has at most `most`.
    """
    shape = _shape(values)
    if math.prod(shape) > most * math.prod(example):
        raise TaskError(f"A request has at most {most} examples, got {_examples(shape, example)}.")
    if not shape or 0 in shape or not _has_shape(values, shape):
        raise TaskError("Inputs must be nested lists of numbers, of equal lengths and not empty.")


def _shape(values: Any) -> tuple[int, ...]:
    """Lengths of the first list of each level."""
    shape: list[int] = []
    while isinstance(values, list) and len(shape) <= MAX_DIMENSIONS:
        shape.append(len(values))
        if not values:
            break
        values = values[0]
    return tuple(shape)


def _examples(shape: tuple[int, ...], example: tuple[int, ...]) -> str:
    return str(shape[0]) if shape[1:] == example else f"the shape {shape}"


def _has_shape(values: Any, shape: tuple[int, ...]) -> bool:
    if not shape:
        return type(values) in (int, float)  # neither a text nor a truth value
    is_list = isinstance(values, list) and len(values) == shape[0]
    return is_list and all(_has_shape(value, shape[1:]) for value in values)
