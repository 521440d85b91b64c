"""A task from the examples of its parts: labels become numbers, and some examples are left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from autotune.backbones.inputs import InputDescription
from autotune.errors import TaskError
from autotune.tasks.base import Task
from autotune.tasks.labels import ClassLabels
from autotune.tasks.options import DataOptions, Skipped
from autotune.tasks.part import Labels, Part
from autotune.utils.events import tell, warn


@dataclass(frozen=True, eq=False)
class Examples:
    """Examples of a part as a source reads them."""

    inputs: Tensor | Sequence[Tensor]

    labels: ClassLabels

    groups: Sequence[Any] | None = None
    """Name of each example's group, whose examples stay in one part."""


def make_task(
    source: str,
    parts: Mapping[str, Examples],
    options: DataOptions,
    *,
    input: InputDescription | None = None,
    skipped: Sequence[Skipped] = (),
) -> Task:
    """Make a task; `TaskError` for missing labels, unless they are to be left out.

    Classes are the labels of the training part.
    """
    _refuse_unlabelled(source, parts, options)
    labelled = _without_unlabelled(source, parts)
    classes = _classes_of(labelled["train"].labels)
    groups = _numbered_groups(labelled)
    made = {
        name: Part(
            examples.inputs,
            encode(examples.labels.values, known=classes, source=source),
            groups.get(name),
        )
        for name, examples in labelled.items()
    }
    names = tuple(map(str, classes))
    task = Task(source, made["train"], made.get("val"), made.get("test"), names)
    return replace(task, input=input, skipped=tuple(skipped))


def encode(labels: Sequence[Any], *, known: Sequence[Any], source: str) -> Labels:
    """Encode labels as numbers from 0, in the order of `known`; `TaskError` for other labels."""
    number = {label: i for i, label in enumerate(known)}
    if unknown := [label for label in labels if label not in number]:
        raise TaskError(
            f"Every label must occur in the training part; {source} has {unknown[0]!r} elsewhere. "
            "Add training examples of it or leave it out."
        )
    return np.array([number[label] for label in labels], np.int64)


def _refuse_unlabelled(source: str, parts: Mapping[str, Examples], options: DataOptions) -> None:
    counts = {name: n for name, part in parts.items() if (n := part.labels.n_missing)}
    if not counts:
        return
    sizes = {name: len(part.labels) for name, part in parts.items()}
    text = ", ".join(f"{n:,} of {sizes[name]:,} in {name}" for name, n in counts.items())
    if not options.skip_unlabelled:
        blanks = {repr(parts[name].labels.blank) for name in counts}
        raise TaskError(
            f"Every example needs a label, {source} has {text} without one "
            f"({' and '.join(sorted(blanks))} means none). Give --skip-unlabelled to leave them "
            "out; if these are classes, number them from 0."
        )
    tell("left-out", f"Left out of {source}, as they have no label: {text}.")


def _without_unlabelled(source: str, parts: Mapping[str, Examples]) -> dict[str, Examples]:
    kept = {name: _labelled(examples) for name, examples in parts.items()}
    empty = [name for name, examples in kept.items() if not len(examples.labels)]
    if "train" in empty:
        raise TaskError(f"Training needs labels, no training example of {source} has one.")
    for name in empty:
        warn(f"No example in {name} of {source} has a label: it is split from the others instead.")
    return {name: examples for name, examples in kept.items() if name not in empty}


def _labelled(examples: Examples) -> Examples:
    values = examples.labels.values
    if not examples.labels.n_missing:
        return examples
    rows = np.array([at for at, value in enumerate(values) if value is not None], np.int64)
    labels = replace(examples.labels, values=[values[at] for at in rows])
    groups = examples.groups
    return Examples(
        Part(examples.inputs, np.zeros(len(values), np.int64)).take(rows).inputs,
        labels,
        None if groups is None else [groups[at] for at in rows],
    )


def _classes_of(labels: ClassLabels) -> list[Any]:
    """Labels that occur, in their own order or sorted."""
    occurring = set(labels.values)
    return [label for label in labels.order if label in occurring] or sorted(occurring)


def _numbered_groups(parts: Mapping[str, Examples]) -> dict[str, NDArray[np.int64]]:
    """Part → number of each example's group; empty if no part has groups."""
    if all(examples.groups is None for examples in parts.values()):
        return {}
    numbers: dict[Any, int] = {}
    numbered = {}
    for name, examples in parts.items():
        # an example of a part without groups is a group of its own
        groups = examples.groups or [(name, at) for at in range(len(examples.labels))]
        numbered[name] = np.array([numbers.setdefault(g, len(numbers)) for g in groups], np.int64)
    return numbered
