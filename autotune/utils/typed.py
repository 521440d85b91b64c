"""Types of the fields of a record: one that is read from a file may have any."""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from autotune.errors import brief

T = TypeVar("T")


def typed(record: T) -> T:
    """Return a dataclass; raises `TypeError` if a field has a value of another type than declared.

    Looks into mappings and tuples, not into other dataclasses, which are checked where they are
    made. Integers are floats.
    """
    kind: Any = type(record)
    model = _model(kind)
    try:
        model.model_validate({name: getattr(record, name) for name in model.model_fields})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        named = f"{first['loc'][0]} of a {model.__name__} is {brief(repr(first['input']))}"
        raise TypeError(named) from error
    return record


@cache
def _model(record: Any) -> type[BaseModel]:
    kinds: Any = {name: (kind, ...) for name, kind in get_type_hints(record).items()}
    config = ConfigDict(strict=True, arbitrary_types_allowed=True)
    return create_model(record.__name__, __config__=config, **kinds)
