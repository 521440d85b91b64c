"""Labels in the forms that people have them: one class per example, or none where it is unknown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from autotune.errors import TaskError
from autotune.utils.events import tell

UNLABELLED = (-1, -100)
"""Integers that mean "no label", as in data sets for competitions and in losses of torch."""

_WAY_OUT = "Give one class per example: an integer, a string or a boolean."


@dataclass(frozen=True)
class ClassLabels:
    """One label per example."""

    values: list[Any]
    """Integers, strings or booleans; None for examples without a label."""

    order: tuple[Any, ...] = ()
    """Labels in the order of the classes, where the data have one; otherwise they are sorted."""

    blank: Any = None
    """The first value that stands for a missing label."""

    def __len__(self) -> int:
        return len(self.values)

    @property
    def n_missing(self) -> int:
        """Number of examples without a label."""
        return sum(value is None for value in self.values)


def read_labels(y: Any, where: str, names: Sequence[str] = ()) -> ClassLabels:
    """Read labels (n,), (n, 1) or one-hot (n, classes), of arrays, tensors, lists or pandas.

    `names` are those of the classes 0, 1, … where the data have them. Raises `TaskError` that says
    what labels of other kinds are: numbers as in regression, several classes per example, …
    """
    array = _as_array(y, where)
    if array.ndim == 2 and array.shape[1] > 1:
        return _one_hot(array, where, getattr(y, "columns", ()))
    if array.ndim > 2 or (array.ndim == 2 and array.shape[1] != 1):
        raise TaskError(f"Labels must be (n,), those of {where} are {array.shape}. {_WAY_OUT}")
    return _classes(array.reshape(-1), where, tuple(names))


def _as_array(y: Any, where: str) -> NDArray[Any]:
    if isinstance(y, Tensor):
        return np.asarray(y.detach().cpu().float() if y.is_floating_point() else y.detach().cpu())
    if hasattr(y, "to_numpy"):
        # integers with missing values would become floats
        is_whole = getattr(getattr(y, "dtype", None), "kind", "") in ("i", "u", "b")
        y = y.to_numpy(dtype=object) if is_whole else y.to_numpy()
    if isinstance(y, np.ndarray) and y.dtype != object:
        return y.reshape(-1) if y.ndim == 0 else y
    try:
        items = [_plain(item) for item in (y.reshape(-1) if _is_flat(y) else y)]
    except TypeError as error:
        raise TaskError(f"Labels must be a list or an array, {where} has {y!r:.40}.") from error
    return _stacked(items, where)


def _is_flat(y: Any) -> bool:
    return isinstance(y, np.ndarray) and (y.ndim < 2 or y.shape[1:] == (1,))


def _plain(item: Any) -> Any:
    """A label as Python's own value or list; None for the missing values of pandas and NumPy."""
    if isinstance(item, Tensor | np.ndarray | np.generic):
        item = item.tolist()
    if isinstance(item, tuple | set | frozenset):
        item = list(item)
    if isinstance(item, list) and len(item) == 1:
        item = item[0]
    if isinstance(item, bytes):
        item = item.decode(errors="replace")
    return None if type(item).__name__ in ("NAType", "NaTType") else item


def _stacked(items: list[Any], where: str) -> NDArray[Any]:
    """Labels as an array of objects (n,), or numbers (n, columns) where each label is a list."""
    lists = [item for item in items if isinstance(item, list)]
    if not lists:
        array = np.empty(len(items), object)
        array[:] = items
        return array
    if len(lists) < len(items) or len({len(item) for item in lists}) > 1:
        raise _multi_label(where)
    try:
        array = np.array(lists)
    except ValueError as error:
        raise _multi_label(where) from error
    if array.dtype.kind not in "biuf":
        raise _multi_label(where)
    return array


def _multi_label(where: str) -> TaskError:
    return TaskError(
        f"{where[0].upper()}{where[1:]} is multi-label: it has several classes per example, which "
        f"autotune does not support. {_WAY_OUT}"
    )


def _one_hot(array: NDArray[Any], where: str, columns: Sequence[Any]) -> ClassLabels:
    """Classes of one-hot rows; `TaskError` for rows of any other kind."""
    if array.dtype.kind not in "biuf":
        raise _multi_label(where)
    values = array.astype(float)
    totals = values.sum(1)
    if not np.isin(values, (0, 1)).all() or not values.any():
        raise _no_one_hot(array, values, where)
    if (totals > 1).any():
        raise _multi_label(where)
    tell("labels", f"Labels of {where} are one-hot: the column of the 1 is the class.")
    order = tuple(map(str, columns)) if len(columns) else tuple(range(array.shape[1]))
    rows = zip(values.argmax(1).tolist(), totals.tolist(), strict=True)
    return ClassLabels([order[at] if total else None for at, total in rows], order, "a row of 0")


def _no_one_hot(array: NDArray[Any], values: NDArray[Any], where: str) -> TaskError:
    if array.dtype.kind != "f":
        return _multi_label(where)
    if (values >= 0).all() and np.allclose(values.sum(1), 1, atol=1e-3):
        kind = "probabilities of classes (soft labels)"
    else:
        kind = f"{array.shape[1]} numbers per example, as in regression"
    return TaskError(f"Labels of {where} are {kind}, which autotune does not support. {_WAY_OUT}")


def _classes(array: NDArray[Any], where: str, names: tuple[str, ...]) -> ClassLabels:
    """Labels of an array (n,), with the names of their classes where there are any."""
    _refuse_numbers(array.dtype.kind, array.dtype, where)
    values = [_plain(value) for value in array.tolist()]
    blank = next((value for value in values if _is_blank(value)), None)
    values = [None if _is_blank(value) else value for value in values]
    _refuse_mixed(values, where)
    if not names:
        return ClassLabels(values, blank=blank)
    if beyond := [v for v in values if v is not None and not _is_index(v, len(names))]:
        raise TaskError(
            f"Labels must be among the {len(names)} classes that the data name, {where} has "
            f"{beyond[0]!r}."
        )
    named = [None if value is None else names[value] for value in values]
    return ClassLabels(named, names, blank)


def _is_index(value: Any, n: int) -> bool:
    return isinstance(value, int) and 0 <= value < n


def _is_blank(value: Any) -> bool:
    """Whether a value means that an example has no label."""
    if value is None or value == "":
        return True
    if isinstance(value, float):
        return value != value
    return type(value) is int and value in UNLABELLED


def _refuse_mixed(values: list[Any], where: str) -> None:
    """Raise `TaskError` unless the labels are all integers, all strings or all booleans."""
    kinds = sorted({type(value).__name__ for value in values if value is not None})
    if kinds and set(kinds) <= {"int", "float"} and "float" in kinds:
        _refuse_numbers("f", "float", where)
    if kinds not in ([], ["bool"], ["int"], ["str"]):
        raise TaskError(
            f"Labels must be of one kind, {where} has {' and '.join(kinds)}. {_WAY_OUT}"
        )


def _refuse_numbers(kind: str, dtype: Any, where: str) -> None:
    """Raise `TaskError` for labels that name no classes."""
    if kind == "f":
        raise TaskError(
            f"Labels must be integers or strings, {where} has {dtype}: numbers as in regression, "
            "which autotune does not support. Convert them to integers if they are classes."
        )
    if kind not in "iuUSbO":
        raise TaskError(f"Labels must be integers or strings, {where} has {dtype}. {_WAY_OUT}")
