"""A task: labelled examples in three parts that are split once and never mixed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import combinations

import numpy as np
from torch import Tensor

from autotune.backbones.inputs import InputDescription
from autotune.errors import TaskError
from autotune.tasks.options import Skipped
from autotune.tasks.part import Part, carried_part, join
from autotune.tasks.splits import cut_part, fold_rows
from autotune.utils.events import warn


@dataclass(frozen=True, eq=False)
class Task:
    """A labelled data set; parts that its source lacks are None until `split` makes them."""

    source: str
    train: Part
    val: Part | None
    test: Part | None
    classes: tuple[str, ...]

    input: InputDescription | None = None
    """Input description with what the images themselves say, such as their bits; else None."""

    skipped: tuple[Skipped, ...] = ()
    """Examples that could not be read and were left out on request."""

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

        A class with too few examples is missing from validation or test, which is reported. Raises
        `TaskError` if nothing can be split off, a class has no training example, or there is only
        one class.
        """
        if len(self.classes) < 2:
            raise TaskError(f"A task must have at least two classes, {self.source} has one.")
        self._refuse_torn_groups()
        train, val, test = self.train, self.val, self.test
        if test is None:
            train, test = cut_part(train, seed, self.source)
        if val is None:
            train, val = cut_part(train, seed, self.source)
        whole = replace(self, train=train, val=val, test=test)
        whole._check_classes()
        return whole

    def folds(self, k: int, seed: int) -> list[tuple[Part, Part]]:
        """(train, validation) of k stratified folds over both parts together.

        Raises `TaskError` if there are too few examples for k folds.
        """
        both = self.selectable()
        splits = fold_rows(both, k, seed, self.source)
        return [(both.take(train), both.take(val)) for train, val in splits]

    def selectable(self) -> Part:
        """Training and validation parts together."""
        assert self.val is not None
        return join(self.train, self.val)

    def digest(self) -> str:
        """Digest over the labels and the inputs in memory of all parts."""
        digest = sha256()
        for part in filter(None, (self.train, self.val, self.test)):
            digest.update(part.labels.tobytes())
            if part.groups is not None:
                digest.update(part.groups.tobytes())
            if isinstance(part.inputs, Tensor):
                digest.update(part.inputs.numpy().tobytes())
        return digest.hexdigest()[:16]

    def _check_classes(self) -> None:
        """Refuse classes without a training example; report those that lack another one."""
        if missing := self._missing(self.train):
            raise TaskError(
                f"Every class needs training examples, {self.source} has none of {missing[0]!r}. "
                "Add examples or leave the class out."
            )
        parts = {"validation": self.val, "test": self.test}
        gaps = {name: self._missing(part) for name, part in parts.items() if part is not None}
        texts = [f"{name} has none of {_few(names)}" for name, names in gaps.items() if names]
        if texts:
            warn(
                f"Some classes of {self.source} are not measured, for lack of examples: "
                f"{'; '.join(texts)}."
            )

    def _missing(self, part: Part) -> list[str]:
        """Classes without an example in a part."""
        counts = np.bincount(part.labels, minlength=len(self.classes))
        return [self.classes[at] for at in np.flatnonzero(counts == 0)]

    def _refuse_torn_groups(self) -> None:
        """Raise `TaskError` if a group has examples in two parts."""
        parts = {"train": self.train, "val": self.val, "test": self.test}
        groups = {name: set(p.groups) for name, p in parts.items() if p and p.groups is not None}
        for (first, a), (second, b) in combinations(groups.items(), 2):
            if a & b:
                raise TaskError(
                    f"A group must be in one part, {len(a & b)} of {self.source} are in {first} "
                    f"and in {second}. Move them, or leave the groups out."
                )


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(map(repr, names[:3]))}{more}"
