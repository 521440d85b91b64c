"""A task: labelled examples in three parts that are split once and never mixed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import numpy as np
from torch import Tensor

from autotune.errors import TaskError
from autotune.tasks.part import Labels, Part, carried_part, join
from autotune.tasks.splits import cut_part


@dataclass(frozen=True, eq=False)
class Task:
    """A labelled data set; parts that its source lacks are None until `split` makes them."""

    source: str
    train: Part
    val: Part | None
    test: Part | None
    classes: tuple[str, ...]

    def carried(self) -> Task:
        """The same task with the content of its files in memory, to be sent to other machines."""
        return replace(
            self,
            train=carried_part(self.train),
            val=None if self.val is None else carried_part(self.val),
            test=None if self.test is None else carried_part(self.test),
        )

    def split(self, seed: int) -> Task:
        """Split off missing parts, stratified: test is 20 % of all, validation 20 % of the rest.

        Raises `TaskError` if a class would be missing from a part, or if there is only one class.
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
        """(train, validation) of k stratified folds over both parts together.

        Raises `TaskError` if a class has fewer than k examples.
        """
        from sklearn.model_selection import StratifiedKFold

        both = self.selectable()
        cutter = StratifiedKFold(k, shuffle=True, random_state=seed)
        if (fewest := int(np.bincount(both.labels).min())) < k:
            raise TaskError(
                f"Every class needs at least one example per fold; --folds {k} but the smallest "
                f"class of {self.source} has {fewest}. Use fewer folds."
            )
        rows = cutter.split(np.zeros(len(both)), both.labels)
        return [(both.take(train), both.take(val)) for train, val in rows]

    def selectable(self) -> Part:
        """Training and validation parts together."""
        assert self.val is not None
        return join(self.train, self.val)

    def digest(self) -> str:
        """Digest over the labels and the inputs in memory of all parts."""
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
                missing = self.classes[int(np.flatnonzero(counts == 0)[0])]
                raise TaskError(
                    f"Every part needs every class, the {name} part of {self.source} has no "
                    f"example of {missing!r}. Add examples or leave the class out."
                )


def encode(labels: Sequence[Any], *, known: Sequence[Any], source: str) -> Labels:
    """Encode labels as numbers from 0, in the order of `known`; `TaskError` for other labels."""
    number = {label: i for i, label in enumerate(known)}
    if unknown := [label for label in labels if label not in number]:
        raise TaskError(
            f"Every label must occur in the training part; {source} has {unknown[0]!r} elsewhere. "
            "Add training examples of it or leave it out."
        )
    return np.array([number[label] for label in labels], np.int64)
