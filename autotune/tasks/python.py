"""`python:MODULE-or-FILE:FUNCTION`, and data sets passed as objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autotune.backbones.inputs import InputDescription
from autotune.errors import TaskError, first_line
from autotune.tasks.base import Task
from autotune.tasks.examples import Examples, make_task
from autotune.tasks.labels import read_labels
from autotune.tasks.numbers import as_inputs
from autotune.tasks.options import DEFAULTS, DataOptions, Skipped
from autotune.tasks.part_names import by_part, part_of
from autotune.tasks.random_examples import RandomExamples, draws
from autotune.tasks.rows import LABEL_COLUMNS, class_names, pair_rows, read_rows
from autotune.utils.events import tell, warn
from autotune.utils.user_code import call_source

FORMS = "Give (train, test), (train, val, test) or a mapping with 'train' and maybe 'val', 'test'."


def load(name: str, input: InputDescription | None, options: DataOptions = DEFAULTS) -> Task:
    """Load the task that the named function returns, in any form that `as_task` accepts."""
    return as_task(call_source(name, what="task"), f"python:{name}", input, options)


def as_task(
    data: Any,
    source: str,
    input: InputDescription | None,
    options: DataOptions = DEFAULTS,
) -> Task:
    """Make a task from a `Task`, a data set, two or three of them, or a mapping of them.

    A data set is a pair of arrays (inputs, labels), a table of pandas with a column of labels, a
    torch `Dataset` of (input, label), or one of Hugging Face `datasets`.
    """
    if isinstance(data, Task):
        return _checked(data)
    parts, skipped = {}, list[Skipped]()
    for part, dataset in _by_part(data, source).items():
        parts[part] = _examples(dataset, input, f"{part} of {source}", options, skipped)
    return make_task(source, parts, options, skipped=skipped)


def _checked(task: Task) -> Task:
    for part in filter(None, (task.train, task.val, task.test)):
        if len(part) and not 0 <= part.labels.min() <= part.labels.max() < len(task.classes):
            raise TaskError(
                f"Labels of a Task must be 0 to {len(task.classes) - 1}, {task.source} has "
                f"{part.labels.min()} to {part.labels.max()}. Leave examples without a label out."
            )
    return task


def _by_part(data: Any, source: str) -> dict[str, Any]:
    if isinstance(data, Mapping):
        return _named_parts(data, source)
    if isinstance(data, (tuple, list)) and not _is_pair(data):
        if len(data) not in (2, 3):
            raise TaskError(f"A task has two or three data sets, got {len(data)}. {FORMS}")
        names = ("train", "test") if len(data) == 2 else ("train", "val", "test")
        return dict(zip(names, data, strict=True))
    return {"train": data}


def _named_parts(data: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Part → data set, where parts may be called `validation` and the like."""
    present = {str(name): dataset for name, dataset in data.items() if dataset is not None}
    names = by_part(present, source) if all(map(part_of, present)) else {}
    if "train" not in names:
        raise TaskError(f"A task's parts are train, val, test; got {sorted(present)}. {FORMS}")
    if renamed := [f"{name} is {part}" for part, name in names.items() if part != name]:
        tell("parts", f"Parts of {source}: {', '.join(renamed)}.")
    return {part: present[name] for part, name in names.items()}


def _is_pair(data: Sequence[Any]) -> bool:
    """Whether it is (inputs, labels) and not (train, test)."""
    if len(data) != 2 or not all(hasattr(x, "__len__") for x in data):
        return False
    return all(map(_is_array, data)) or _has_classes(data[1])


def _has_classes(labels: Any) -> bool:
    """Whether it is a list of classes, one per example."""
    if _is_array(labels) or isinstance(labels, Mapping) or not len(labels):
        return False
    return isinstance(labels[0], int | str | bytes | np.generic)


def _is_array(x: Any) -> bool:
    return hasattr(x, "shape") or hasattr(x, "dtype")


def _examples(
    data: Any,
    input: InputDescription | None,
    where: str,
    options: DataOptions,
    skipped: list[Skipped],
) -> Examples:
    if hasattr(data, "columns") and hasattr(data, "to_numpy"):
        data = _split_table(data, where)
    if isinstance(data, (tuple, list)) and len(data) == 2:
        x, y = data
        if not _has_images(x):
            return _arrays(x, y, input, where)
        data = _zipped(x, y, where)
    try:
        rows = pair_rows(data, input, where)
        examples, readable, bad = read_rows(rows, options)
        skipped += bad
        labels = read_labels([label for _, label in examples], where, class_names(data, rows))
        if draws(readable):
            return Examples(_read_anew(readable, input, where), labels)
        inputs = _stacked([torch.as_tensor(np.asarray(x)) for x, _ in examples], input)
    except TaskError:
        raise
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise TaskError(
            f"A data set must yield (input, label) with inputs of one shape, {where} does not "
            f"({type(error).__name__}: {first_line(error)}). {FORMS}"
        ) from error
    return Examples(_inputs(inputs, input, where), labels)


def _zipped(x: Any, y: Any, where: str) -> list[tuple[Any, Any]]:
    if len(x) != len(y):
        raise TaskError(
            f"Inputs and labels must have equal length, {where} has {len(x)} and {len(y)}."
        )
    return list(zip(x, y, strict=True))


def _has_images(x: Any) -> bool:
    """Whether inputs are images of Pillow."""
    return isinstance(x, Sequence) and len(x) > 0 and hasattr(x[0], "getbands")


def _split_table(table: Any, where: str) -> tuple[Any, Any]:
    """Inputs and labels of a table of pandas with a column of labels."""
    names = [name for name in LABEL_COLUMNS if name in table.columns]
    if not names:
        raise TaskError(
            f"A table needs a column of labels, {where} has {', '.join(map(str, table.columns))}. "
            "Call it label, or give the pair (inputs, labels)."
        )
    return table.drop(columns=names[0]), table[names[0]]


def _arrays(x: Any, y: Any, input: InputDescription | None, where: str) -> Examples:
    try:
        n = len(x)
    except TypeError as error:
        raise TaskError(f"Inputs and labels must be arrays, {where} are not ({error}).") from error
    labels = read_labels(y, where)
    if n != len(labels) or not n:
        raise TaskError(
            f"Inputs and labels must have equal length, {where} has {n} and {len(labels)}."
        )
    return Examples(_inputs(x, input, where), labels)


def _read_anew(rows: Any, input: InputDescription | None, where: str) -> RandomExamples:
    warn(
        f"Transforms of {where} draw at random: its examples are read anew in every epoch, and "
        "outputs of the frozen network on them are not cached. Use --augment to draw cached views."
    )
    return RandomExamples(rows, input, where)


def _stacked(examples: list[Tensor], input: InputDescription | None) -> Tensor:
    """Examples as one tensor; uint8 images next to deep ones, which are floats, are normalised."""
    kinds = {example.dtype for example in examples}
    if input is not None and input.is_image and torch.uint8 in kinds and len(kinds) > 1:
        examples = [input.normalised(x[None])[0] if x.dtype == torch.uint8 else x for x in examples]
    return torch.stack(examples)


def _inputs(x: Any, input: InputDescription | None, where: str) -> Tensor:
    try:
        array = x.detach().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)
    except (TypeError, ValueError) as error:
        raise TaskError(f"Inputs must be arrays, {where} are not ({error}).") from error
    return as_inputs(array, input, where)
