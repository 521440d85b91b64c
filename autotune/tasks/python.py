"""`python:MODULE-or-FILE:FUNCTION`, and data sets passed as objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autotune.backbones.inputs import InputDescription
from autotune.errors import TaskError
from autotune.tasks.base import Task, encode
from autotune.tasks.npz import as_inputs
from autotune.tasks.part import Part
from autotune.tasks.random_examples import RandomExamples, draws
from autotune.utils.events import warn
from autotune.utils.user_code import call_source

FORMS = "Give (train, test), (train, val, test) or a mapping with 'train' and maybe 'val', 'test'."


def load(name: str, input: InputDescription | None) -> Task:
    """Load the task that the named function returns, in any form that `as_task` accepts."""
    return as_task(call_source(name, what="task"), f"python:{name}", input)


def as_task(data: Any, source: str, input: InputDescription | None) -> Task:
    """Make a task from a `Task`, a data set, two or three of them, or a mapping of them.

    A data set is a pair of arrays (inputs, labels), or a torch `Dataset` of (input, label).
    """
    if isinstance(data, Task):
        return data
    sets = _by_part(data)
    pairs = {part: _pair(dataset, input, f"{part} of {source}") for part, dataset in sets.items()}
    classes = sorted({*pairs["train"][1]})
    parts = {
        part: Part(
            _inputs(x, input, f"{part} of {source}"), encode(y, known=classes, source=source)
        )
        for part, (x, y) in pairs.items()
    }
    names = tuple(map(str, classes))
    return Task(source, parts["train"], parts.get("val"), parts.get("test"), names)


def _by_part(data: Any) -> dict[str, Any]:
    if isinstance(data, Mapping):
        if "train" not in data or set(data) - {"train", "val", "test"}:
            raise TaskError(f"A task's parts are train, val, test; got {sorted(data)}. {FORMS}")
        return {part: dataset for part, dataset in data.items() if dataset is not None}
    if isinstance(data, (tuple, list)) and not _is_pair(data):
        if len(data) not in (2, 3):
            raise TaskError(f"A task has two or three data sets, got {len(data)}. {FORMS}")
        return dict(
            zip(
                ("train", "test") if len(data) == 2 else ("train", "val", "test"),
                data,
                strict=True,
            )
        )
    return {"train": data}


def _is_pair(data: Sequence[Any]) -> bool:
    """Whether it is (inputs, labels) and not (train, test)."""
    return len(data) == 2 and all(hasattr(x, "shape") or hasattr(x, "dtype") for x in data)


def _pair(data: Any, input: InputDescription | None, where: str) -> tuple[Any, list[Any]]:
    if isinstance(data, (tuple, list)) and len(data) == 2:
        x, y = data
        return x, _labels(x, y, where)
    try:
        if draws(data):
            return _read_anew(data, input, where)
        examples = [data[i] for i in range(len(data))]
        inputs = torch.stack([torch.as_tensor(np.asarray(x)) for x, _ in examples])
        return inputs, [int(label) for _, label in examples]
    except (TypeError, ValueError, RuntimeError, IndexError, KeyError) as error:
        raise TaskError(
            f"A data set must yield (input, label) with inputs of one shape, {where} does not "
            f"({error}). {FORMS}"
        ) from error


def _read_anew(
    dataset: Any, input: InputDescription | None, where: str
) -> tuple[RandomExamples, list[Any]]:
    warn(
        f"Transforms of {where} draw at random: its examples are read anew in every epoch, and "
        "outputs of the frozen network on them are not cached. Use --augment to draw cached views."
    )
    labels = [int(dataset[at][1]) for at in range(len(dataset))]
    return RandomExamples(dataset, input, where), labels


def _labels(x: Any, y: Any, where: str) -> list[Any]:
    try:
        n, labels = len(x), list(np.asarray(y).reshape(-1).tolist())
    except (TypeError, ValueError) as error:
        raise TaskError(f"Inputs and labels must be arrays, {where} are not ({error}).") from error
    if n != len(labels) or not n:
        raise TaskError(
            f"Inputs and labels must have equal length, {where} has {n} and {len(labels)}."
        )
    return labels


def _inputs(x: Any, input: InputDescription | None, where: str) -> Tensor | RandomExamples:
    if isinstance(x, RandomExamples):
        return x
    try:
        array = x.detach().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)
    except (TypeError, ValueError) as error:
        raise TaskError(f"Inputs must be arrays, {where} are not ({error}).") from error
    return as_inputs(array, input, where)
