"""Stratified splits of a part."""

from __future__ import annotations

import numpy as np

from autotune.errors import TaskError
from autotune.tasks.part import Part


def halved(part: Part, seed: int) -> tuple[Part, Part]:
    """Split a part into halves, stratified by class if every class has at least two examples."""
    from sklearn.model_selection import train_test_split

    rows = np.arange(len(part))
    enough = np.bincount(part.labels)[np.unique(part.labels)].min() > 1
    classes = part.labels if enough and len(part) >= 2 * len(np.unique(part.labels)) else None
    first, second = train_test_split(rows, test_size=0.5, stratify=classes, random_state=seed)
    return part.take(np.sort(first)), part.take(np.sort(second))


def cut_part(part: Part, seed: int, source: str) -> tuple[Part, Part]:
    """Split a part into (rest, 20 %), stratified by class; `TaskError` if a class is too small."""
    from sklearn.model_selection import train_test_split

    rows = np.arange(len(part))
    try:
        rest, cut = train_test_split(rows, test_size=0.2, stratify=part.labels, random_state=seed)
    except ValueError as error:
        raise TaskError(
            f"A part of 20 % with every class must be split from {len(part)} examples of {source}, "
            f"which is impossible ({error}). Add examples, or give the parts yourself."
        ) from error
    return part.take(np.sort(rest)), part.take(np.sort(cut))
