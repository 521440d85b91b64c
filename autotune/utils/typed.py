"""Types of the fields of a record: one that is read from a file may have any."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from autotune.errors import brief

T = TypeVar("T")
Check = Callable[[Any], bool]


def typed(record: T) -> T:
    """Return a dataclass; raises `TypeError` if a field has a value of another type than declared.

    Looks into mappings and tuples, not into other dataclasses, which are checked where they are
    made. Integers are floats.
    """
    cls: Any = type(record)
    for name, has_type in _checks(cls):
        if not has_type(value := getattr(record, name)):
            raise TypeError(f"{name} of a {cls.__name__} is {brief(repr(value))}")
    return record


@cache
def _checks(record: Any) -> list[tuple[str, Check]]:
    """Name of each field, and what says whether a value has its type."""
    return [(name, _check(kind)) for name, kind in get_type_hints(record).items()]


def _check(kind: Any) -> Check:
    if kind is Any:
        return lambda _: True
    if kind in (int, float):
        return lambda value: type(value) in (int, kind)
    outer, inner = get_origin(kind), [_check(one) for one in get_args(kind) if one is not ...]
    if outer is None:
        return lambda value: isinstance(value, kind)
    if outer is UnionType:
        return lambda value: any(has_type(value) for has_type in inner)
    holds = _holding(outer, inner, is_fixed=outer is tuple and ... not in get_args(kind))
    return lambda value: isinstance(value, outer) and holds(value)


def _holding(outer: Any, inner: list[Check], *, is_fixed: bool) -> Check:
    """Check of the values in a mapping, a list or a tuple."""
    if issubclass(outer, Mapping):
        return lambda value: all(map(inner[0], value)) and all(map(inner[1], value.values()))
    if is_fixed:
        return lambda value: (
            len(value) == len(inner)
            and all(has_type(part) for has_type, part in zip(inner, value, strict=True))
        )
    return lambda value: all(map(inner[0], value))
