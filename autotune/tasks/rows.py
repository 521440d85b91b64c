"""Rows of data sets: pairs (input, label), or mappings of columns as in Hugging Face `datasets`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from autotune.backbones.inputs import InputDescription
from autotune.errors import TaskError, first_line
from autotune.tasks.image import decoded, from_pillow
from autotune.tasks.options import DataOptions, Skipped
from autotune.tasks.part import Rows
from autotune.utils.events import tell

LABEL_COLUMNS = "label labels target targets class y fine_label category".split()
INPUT_COLUMNS = "image img pixel_values x input inputs input_ids features data".split()
"""Usual names of columns, the most usual first."""

Row = tuple[Any, Any]
"""(input, label)."""


@dataclass(frozen=True)
class Columns:
    """Columns that hold inputs and labels."""

    inputs: str
    labels: str


@dataclass(frozen=True, eq=False)
class PairRows(Sequence[Row]):
    """Rows of a data set as (input, label), with images of Pillow as the network takes them."""

    dataset: Any
    columns: Columns | None
    """Columns of a data set whose rows are mappings; None for pairs."""

    input: InputDescription | None
    where: str

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, at: Any) -> Any:
        row = self.dataset[int(at)]
        if self.columns is None:
            x, label = row
        else:
            x, label = row[self.columns.inputs], row[self.columns.labels]
        return self._taken(x), label

    def _taken(self, x: Any) -> Any:
        if isinstance(x, Mapping) and (x.get("bytes") or x.get("path")):
            return self._decoded(x)
        is_image = hasattr(x, "getbands") and self.input is not None
        return from_pillow(x, self.input, self.where) if is_image else x

    def _decoded(self, stored: Mapping[str, Any]) -> Any:
        """Image of a column that is not decoded, as with `Image(decode=False)`."""
        if self.input is None or not self.input.is_image:
            return from_pillow(None, self.input, self.where)
        content = stored.get("bytes")
        file = BytesIO(content) if content else Path(stored["path"])
        return decoded(file, self.input).pixels


def pair_rows(dataset: Any, input: InputDescription | None, where: str) -> PairRows:
    """Rows of a data set; `TaskError` if it is empty or its columns are not recognised."""
    if len(dataset) == 0:
        raise TaskError(f"A data set needs examples, {where} has none.")
    first = dataset[0]
    columns = _columns(list(first), where) if isinstance(first, Mapping) else None
    return PairRows(dataset, columns, input, where)


def _columns(names: list[str], where: str) -> Columns:
    labels = next((name for name in LABEL_COLUMNS if name in names), None)
    others = [name for name in names if name != labels]
    usual = [name for name in INPUT_COLUMNS if name in others]
    if labels is None or not others or (len(others) > 1 and not usual):
        raise TaskError(
            f"Rows need a column of inputs and one of labels, such as image and label; {where} has "
            f"{', '.join(map(str, names))}. Rename the columns, or return pairs (input, label)."
        )
    inputs = usual[0] if usual else others[0]
    if unused := [name for name in others if name != inputs]:
        tell("columns", f"Inputs of {where} are {inputs}; not used: {', '.join(unused)}.")
    return Columns(inputs, labels)


def class_names(dataset: Any, rows: PairRows) -> Sequence[str]:
    """Names of the classes 0, 1, … that Hugging Face `datasets` know; empty for other data."""
    features = getattr(dataset, "features", None)
    if rows.columns is None or not isinstance(features, Mapping):
        return ()
    names = getattr(features.get(rows.columns.labels), "names", None)
    return tuple(map(str, names)) if names else ()


def read_rows(rows: PairRows, options: DataOptions) -> tuple[list[Row], Any, list[Skipped]]:
    """Content of the rows that can be read, these rows to read again, and the others.

    Raises `TaskError` that names all rows which raise, unless they are to be left out.
    """
    good, numbers, bad = [], [], []
    for at, row in _tried(rows):
        if isinstance(row, str):
            bad.append(Skipped(f"{rows.where}[{at}]", row))
        else:
            good.append(row)
            numbers.append(at)
    if len(bad) == len(rows):
        raise ValueError(bad[0].reason)
    if bad and not options.skip_bad:
        texts = ", ".join(f"{one.name} ({one.reason})" for one in bad)
        raise TaskError(
            f"Every row must yield (input, label), {len(bad):,} of {len(rows):,} do not: {texts}. "
            "Repair them, or give --skip-bad to leave them out."
        )
    if bad:
        tell("left-out", f"Left out of {rows.where}: {len(bad):,} rows that cannot be read.")
    readable: Any = rows
    return good, Rows(readable, np.array(numbers, np.int64)) if bad else readable, bad


def _tried(rows: PairRows) -> Iterator[tuple[int, Row | str]]:
    for at in range(len(rows)):
        try:
            yield at, rows[at]
        except TaskError:
            raise
        except (Exception, SystemExit) as error:  # the user's code may raise anything
            yield at, f"{type(error).__name__}: {first_line(error)}"
