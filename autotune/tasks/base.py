"""A task: labelled examples in three parts that are cut once and never mixed."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autotune.errors import TaskError

Labels = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Part:
    """Examples with labels. Inputs are a tensor, or a sequence that decodes one at a time."""

    inputs: Tensor | Sequence[Tensor]
    """(n, ...) float32 or int64 as the network takes them, or uint8 pictures
    (n, channels, height, width); a sequence gives one such example per index."""

    labels: Labels
    """(n,) int64."""

    def __len__(self) -> int:
        return len(self.labels)

    def __reduce__(self) -> tuple[Any, ...]:
        """Inputs in memory travel as an array, which processes of one machine may share."""
        inputs = self.inputs.numpy() if isinstance(self.inputs, Tensor) else self.inputs
        return _as_part, (inputs, self.labels)

    def take(self, rows: NDArray[Any]) -> Part:
        """Only these rows, in this order."""
        if isinstance(self.inputs, Tensor):
            return Part(self.inputs[torch.from_numpy(rows)], self.labels[rows])
        return Part(Rows(self.inputs, rows), self.labels[rows])

    def files(self) -> Sequence[Path]:
        """Files that are read while it trains, where its examples are not in memory."""
        return files_of(self.inputs)

    def first(self) -> Tensor:
        """One example, to see its shape and dtype."""
        return self.inputs[0]

    def digest(self) -> str:
        """Of its examples; of pictures in files their names, sizes and times.

        Another one each time for sequences that do not say what they hold.
        """
        return _content(self.inputs)


def _as_part(inputs: Any, labels: Labels) -> Part:
    labels = labels.copy()  # shared memory cannot be written, which torch warns of
    if not isinstance(inputs, np.ndarray):
        return Part(inputs, labels)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return Part(torch.from_numpy(inputs), labels)  # nobody writes into a part


@dataclass(frozen=True, eq=False)
class Rows(Sequence[Tensor]):
    """Some rows of a sequence of examples."""

    inputs: Sequence[Tensor]
    rows: NDArray[Any]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, at: Any) -> Any:
        return self.inputs[self.rows[at]]


def _content(inputs: Any) -> str:
    if isinstance(inputs, Tensor):
        digest = sha256(f"{inputs.dtype} {tuple(inputs.shape)} ".encode())
        digest.update(inputs.contiguous().numpy().data)
        return digest.hexdigest()
    if isinstance(inputs, Rows):
        return sha256(_content(inputs.inputs).encode() + inputs.rows.tobytes()).hexdigest()
    if isinstance(inputs, Chained):
        return sha256(f"{_content(inputs.first)} {_content(inputs.second)}".encode()).hexdigest()
    if files := files_of(inputs):
        about = [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
        return sha256(repr(about).encode()).hexdigest()
    return uuid4().hex


def files_of(inputs: Any) -> Sequence[Path]:
    if isinstance(inputs, Rows):
        return files_of(inputs.inputs)
    found: Sequence[Path] = getattr(inputs, "files", ())
    return found


@dataclass(frozen=True, eq=False)
class Task:
    """A labelled data set; parts that its source lacks are None until `split` cuts them."""

    source: str
    train: Part
    val: Part | None
    test: Part | None
    classes: tuple[str, ...]

    def carried(self) -> Task:
        """With the content of its files in memory, to travel to other machines."""
        return replace(
            self,
            train=carried_part(self.train),
            val=None if self.val is None else carried_part(self.val),
            test=None if self.test is None else carried_part(self.test),
        )

    def split(self, seed: int) -> Task:
        """All three parts: test is 20 % of all, validation 20 % of the rest, cut by class.

        Raises `TaskError` when a class would be missing from a part, or when there is one class.
        """
        if len(self.classes) < 2:
            raise TaskError(f"A task must have at least two classes, {self.source} has one.")
        train, val, test = self.train, self.val, self.test
        if test is None:
            train, test = cut_part(train, seed, self.source)
        if val is None:
            train, val = cut_part(train, seed, self.source)
        whole = replace(self, train=train, val=val, test=test)
        whole._refuse_gaps()
        return whole

    def folds(self, k: int, seed: int) -> list[tuple[Part, Part]]:
        """(train, validation) of k folds over train and validation together, cut by class."""
        from sklearn.model_selection import StratifiedKFold

        both = self.selectable()
        cutter = StratifiedKFold(k, shuffle=True, random_state=seed)
        if (fewest := int(np.bincount(both.labels).min())) < k:
            raise TaskError(
                f"Every class needs at least one example a fold; --folds {k} but the smallest "
                f"class of {self.source} has {fewest}. Use fewer folds."
            )
        rows = cutter.split(np.zeros(len(both)), both.labels)
        return [(both.take(train), both.take(val)) for train, val in rows]

    def selectable(self) -> Part:
        """Train and validation together."""
        assert self.val is not None
        return join(self.train, self.val)

    def digest(self) -> str:
        """Digest over the labels and, where they are in memory, the inputs of all parts."""
        digest = sha256()
        for part in (self.train, self.val, self.test):
            if part is not None:
                digest.update(part.labels.tobytes())
                if isinstance(part.inputs, Tensor):
                    digest.update(part.inputs.numpy().tobytes())
        return digest.hexdigest()[:16]

    def _refuse_gaps(self) -> None:
        for name, part in (("train", self.train), ("val", self.val), ("test", self.test)):
            assert part is not None
            counts = np.bincount(part.labels, minlength=len(self.classes))
            if (counts == 0).any():
                lost = self.classes[int(np.flatnonzero(counts == 0)[0])]
                raise TaskError(
                    f"Every part needs every class, the {name} part of {self.source} has no "
                    f"example of {lost!r}. Add examples or leave the class out."
                )


def carried_part(part: Part) -> Part:
    carry = getattr(part.inputs, "carried", None)
    return part if carry is None else Part(carry(), part.labels)


def join(first: Part, second: Part) -> Part:
    """Both parts, one behind the other."""
    labels = np.concatenate([first.labels, second.labels])
    if isinstance(first.inputs, Tensor) and isinstance(second.inputs, Tensor):
        return Part(torch.cat([first.inputs, second.inputs]), labels)
    return Part(Chained(first.inputs, second.inputs), labels)


@dataclass(frozen=True, eq=False)
class Chained(Sequence[Tensor]):
    first: Any
    second: Any

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def __getitem__(self, at: Any) -> Any:
        n = len(self.first)
        return self.first[at] if at < n else self.second[at - n]


def encode(labels: Sequence[Any], *, known: Sequence[Any], source: str) -> Labels:
    """Labels as numbers 0 … classes-1 in the order of `known`."""
    number = {label: i for i, label in enumerate(known)}
    if strange := [label for label in labels if label not in number]:
        raise TaskError(
            f"Every label must occur in the training part; {source} has {strange[0]!r} elsewhere. "
            "Add training examples of it or leave it out."
        )
    return np.array([number[label] for label in labels], np.int64)


def halved(part: Part, seed: int) -> tuple[Part, Part]:
    """Two halves, cut by class as far as classes have two examples."""
    from sklearn.model_selection import train_test_split

    rows = np.arange(len(part))
    enough = np.bincount(part.labels)[np.unique(part.labels)].min() > 1
    classes = part.labels if enough and len(part) >= 2 * len(np.unique(part.labels)) else None
    first, second = train_test_split(rows, test_size=0.5, stratify=classes, random_state=seed)
    return part.take(np.sort(first)), part.take(np.sort(second))


def cut_part(part: Part, seed: int, source: str) -> tuple[Part, Part]:
    from sklearn.model_selection import train_test_split

    rows = np.arange(len(part))
    try:
        rest, cut = train_test_split(rows, test_size=0.2, stratify=part.labels, random_state=seed)
    except ValueError as error:
        raise TaskError(
            f"A part of 20 % with every class must be cut from {len(part)} examples of {source}, "
            f"which cannot be done ({error}). Add examples, or give the parts yourself."
        ) from error
    return part.take(np.sort(rest)), part.take(np.sort(cut))
