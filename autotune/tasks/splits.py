"""Splits of a part: by class as evenly as possible, and with whole groups where there are any."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune.errors import TaskError
from autotune.tasks.part import Part
from autotune.utils.events import warn

Rows = NDArray[np.int64]
Split = tuple[Rows, Rows]
"""Rows for training, and rows to validate or test on."""

CUT = 0.2
"""Fraction of a part that is split off."""


def halved(part: Part, seed: int) -> tuple[Part, Part]:
    """Split a part into halves, stratified by class if every class has at least two examples."""
    from sklearn.model_selection import GroupShuffleSplit, train_test_split

    rows = np.arange(len(part))
    if _n_groups(part) > 1:
        cutter = GroupShuffleSplit(1, test_size=0.5, random_state=seed)
        first, second = next(cutter.split(rows, groups=part.groups))
        return part.take(first), part.take(second)
    enough = np.bincount(part.labels)[np.unique(part.labels)].min() > 1
    classes = part.labels if enough and len(part) >= 2 * len(np.unique(part.labels)) else None
    first, second = train_test_split(rows, test_size=0.5, stratify=classes, random_state=seed)
    return part.take(np.sort(first)), part.take(np.sort(second))


def cut_part(part: Part, seed: int, source: str) -> tuple[Part, Part]:
    """Split a part into (rest, 20 %) by class; every class keeps an example in the rest.

    Raises `TaskError` if nothing can be split off.
    """
    from sklearn.model_selection import train_test_split

    if part.groups is not None:
        rest, cut = _cut_groups(part, seed, source)
        return part.take(rest), part.take(cut)
    rows = np.arange(len(part))
    try:
        rest, cut = train_test_split(rows, test_size=CUT, stratify=part.labels, random_state=seed)
    except ValueError:  # a class has one example, or there are more classes than examples to cut
        rest, cut = _cut_few(part, seed, source)
    return part.take(np.sort(rest)), part.take(np.sort(cut))


def _cut_few(part: Part, seed: int, source: str) -> Split:
    """Split off 20 % of few examples; classes with one example stay as they are."""
    counts = np.bincount(part.labels)
    spare = np.maximum(counts - 1, 0)
    total = min(int(np.ceil(CUT * len(part))), int(spare.sum()))
    if total == 0:
        raise TaskError(
            f"A part can be split off if every class keeps an example, the {len(part)} examples of "
            f"{source} are one per class. Add examples, or give the parts yourself."
        )
    draw = np.random.default_rng(seed)
    numbers = _shares(counts, spare, total, draw)
    cut = [draw.permutation(np.flatnonzero(part.labels == c))[:n] for c, n in enumerate(numbers)]
    rows = np.concatenate(cut)
    return np.setdiff1d(np.arange(len(part)), rows), rows


def _shares(counts: Rows, spare: Rows, total: int, draw: np.random.Generator) -> list[int]:
    """Number of examples to take of each class, in proportion and at most its spare ones."""
    wanted = total * counts / counts.sum()
    shares = np.minimum(np.floor(wanted).astype(np.int64), spare)
    order = draw.permutation(len(counts))
    while shares.sum() < total:
        open_classes = [c for c in order if shares[c] < spare[c]]
        shares[max(open_classes, key=lambda c: wanted[c] - shares[c])] += 1
    return [int(share) for share in shares]


def _cut_groups(part: Part, seed: int, source: str) -> Split:
    """Split off whole groups with about 20 % of the examples, and as many classes as possible."""
    n_groups = _n_groups(part)
    splits = _group_splits(part, min(5, n_groups), seed) if n_groups > 1 else ()
    n_classes = len(np.unique(part.labels))
    complete = [s for s in splits if len(np.unique(part.labels[s[0]])) == n_classes]
    if not complete:
        raise TaskError(
            f"Every class needs a group that stays in training, {source} has {n_groups} groups for "
            f"{n_classes} classes and none can be split off. Add groups, or give the parts."
        )
    return min(complete, key=lambda split: _distance(part, split[1]))


def _n_groups(part: Part) -> int:
    return 0 if part.groups is None else len(np.unique(part.groups))


def _distance(part: Part, cut: Rows) -> tuple[int, float]:
    return -len(np.unique(part.labels[cut])), abs(len(cut) / len(part) - CUT)


def _group_splits(part: Part, k: int, seed: int) -> list[Split]:
    """k folds of whole groups, by class as evenly as possible."""
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    is_even = k <= np.bincount(part.labels).max()
    shuffled: Any = {"shuffle": True, "random_state": seed}
    cutter = StratifiedGroupKFold(k, **shuffled) if is_even else GroupKFold(k)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class")
        return list(cutter.split(np.zeros(len(part)), part.labels, part.groups))


def fold_rows(part: Part, k: int, seed: int, source: str) -> list[Split]:
    """(training, validation) rows of k folds, by class as evenly as possible.

    Every fold trains on every class: what is needed for that is not validated on. Raises
    `TaskError` if a fold would have nothing to validate on.
    """
    from sklearn.model_selection import StratifiedKFold

    fewest = int(np.bincount(part.labels)[np.unique(part.labels)].min())
    if part.groups is None and fewest >= k:
        cutter = StratifiedKFold(k, shuffle=True, random_state=seed)
        return list(cutter.split(np.zeros(len(part)), part.labels))
    splits = list(_few_folds(part, k, seed))
    if len(splits) < k or not all(len(val) for _, val in splits):
        unit = "examples" if part.groups is None else "groups"
        raise TaskError(
            f"Every fold needs {unit} to validate on, and every class one to train on; --folds {k} "
            f"is too many for {source}, whose smallest class has {fewest}. Use fewer folds."
        )
    n_classes = len(np.unique(part.labels))
    if any(len(np.unique(part.labels[val])) < n_classes for _, val in splits):
        warn(f"Some of the {k} folds of {source} validate on fewer than all {n_classes} classes.")
    return splits


def _few_folds(part: Part, k: int, seed: int) -> Iterator[Split]:
    """Folds in which some classes are validated on in a part of the folds, or in none."""
    if part.groups is None:
        splits = _spread(part, k, seed)
    else:
        splits = _group_splits(part, k, seed) if _n_groups(part) >= k else []
    for train, val in splits:
        kept = _needed(part, train, val)
        yield np.sort(np.concatenate([train, val[kept]])), val[~kept]


def _spread(part: Part, k: int, seed: int) -> list[Split]:
    """k folds, over which the examples of each class are dealt like cards."""
    shuffled = np.random.default_rng(seed).permutation(len(part))
    dealt = shuffled[np.argsort(part.labels[shuffled], kind="stable")]
    cuts = [np.sort(dealt[at::k]) for at in range(k)]
    return [(np.setdiff1d(dealt, cut), cut) for cut in cuts]


def _needed(part: Part, train: Rows, val: Rows) -> NDArray[np.bool_]:
    """Whether a row of `val` is needed for training, with its group, as its class has no other."""
    is_missing = ~np.isin(part.labels[val], part.labels[train])
    if part.groups is None:
        return is_missing
    return np.isin(part.groups[val], part.groups[val][is_missing])
