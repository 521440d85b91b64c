"""What is believed of every choice: Gaussian scores that add up to a plan's value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log2

import numpy as np
from numpy.typing import NDArray

from autotune.problem.plan import Choice, Method
from autotune.problem.problem import Problem

Floats = NDArray[np.float64]
Entry = tuple[str, str]
"""(unit, label) of a choice; in a study also (hyperparameter, value)."""


@dataclass(frozen=True)
class Spread:
    """Standard deviations of what the score of a choice is made of."""

    method: float = 0.6
    """Of a method, wherever it is."""

    near: float = 0.4
    """Of a method at about the same depth."""

    place: float = 0.3
    """Of a method in one unit, in all its sizes."""

    unit: float = 0.3
    """Of a unit, whatever is done to it."""

    choice: float = 0.3
    """Of this choice alone."""


@dataclass(frozen=True, eq=False)
class Observation:
    """Observed sums of scores."""

    rows: Floats
    """(n, entries): how often each entry is in each sum."""

    values: Floats
    """(n,)"""

    noise: Floats
    """(n,) standard deviations."""


@dataclass(frozen=True, eq=False)
class Belief:
    """A Gaussian prior over the scores of entries. *Frozen* has the score 0 and is none of them."""

    mean: Floats
    """(entries,)"""

    covariance: Floats
    """(entries, entries)"""

    def after(self, seen: Observation) -> Floats:
        """(entries,) mean of the scores once `seen` is known."""
        return self._shifted(self.mean, seen.values, seen)

    def drawn(self, seen: Observation, generator: np.random.Generator) -> Floats:
        """(entries,) one draw of the scores once `seen` is known (Matheron's rule)."""
        n = len(self.mean)
        root = np.linalg.cholesky(
            self.covariance + 1e-9 * np.trace(self.covariance) / n * np.eye(n)
        )
        draw = self.mean + root @ generator.standard_normal(n)
        error = seen.noise * generator.standard_normal(len(seen.values))
        return self._shifted(draw, seen.values + error, seen)

    def evidence(self, seen: Observation, scales: Floats) -> Floats:
        """(scales,) log likelihood of what was seen if its values are in units of each scale."""
        root = np.linalg.cholesky(self._of_values(seen))
        values, means = np.linalg.solve(root, np.stack([seen.values, seen.rows @ self.mean], 1)).T
        off = values / scales[:, None] - means
        level = np.log(np.diag(root)).sum() + len(values) * np.log(scales)
        found: Floats = -level - (off**2).sum(1) / 2
        return found

    def _shifted(self, scores: Floats, values: Floats, seen: Observation) -> Floats:
        if not len(values):
            return scores
        off = np.linalg.solve(self._of_values(seen), values - seen.rows @ scores)
        shifted: Floats = scores + self.covariance @ (seen.rows.T @ off)
        return shifted

    def _of_values(self, seen: Observation) -> Floats:
        covariance: Floats = seen.rows @ self.covariance @ seen.rows.T + np.diag(seen.noise**2)
        return covariance


def covariance(
    problem: Problem, entries: Sequence[tuple[str, Choice]], spread: Spread = Spread()
) -> Floats:
    """(entries, entries) prior covariance of the scores of (unit, choice).

    Choices that share a method share its part, the more so in one unit or at about one depth, and
    with about the same size. A choice of two methods has the sum of both.
    """
    position = {unit: i for i, unit in enumerate(problem.units)}
    units = np.array([position[unit] for unit, _ in entries])
    depth = units / max(1, len(problem.units) - 1)
    together = (units[:, None] == units).astype(float)
    near = np.exp(-(((depth[:, None] - depth) / _REACH) ** 2) / 2)
    kin = _kinship([choice for _, choice in entries])
    found: Floats = (
        kin * (spread.method**2 + spread.near**2 * near + spread.place**2 * together)
        + spread.unit**2 * together
        + spread.choice**2 * np.eye(len(entries))
    )
    return found


_REACH = 0.3
"""Depths so far apart are about the same, of 1."""

_PER_DOUBLING = 0.5
"""How far a method's score follows its size, of its standard deviation."""


def _kinship(choices: Sequence[Choice]) -> Floats:
    kinds = sorted({kind(m) for c in choices for m in c.methods})
    has, size = np.zeros((2, len(choices), len(kinds)))
    for row, choice in enumerate(choices):
        for method in choice.methods:
            has[row, kinds.index(kind(method))] = 1
            size[row, kinds.index(kind(method))] = log_size(method)
    size = _PER_DOUBLING * (size - size.sum(0) / has.sum(0).clip(min=1)) * has
    shared: Floats = has @ has.T + size @ size.T
    return shared


def kind(method: Method) -> str:
    """The method with its words, its numbers left out: `subtune-norms`, `lowrank`."""
    return "-".join([method.name, *(v for _, v in method.options if isinstance(v, str))])


def log_size(method: Method) -> float:
    """log₂ of the method's first number; 0 where it has none."""
    numbers = [v for _, v in method.options if isinstance(v, int) and not isinstance(v, bool)]
    return log2(max(1, numbers[0])) if numbers else 0.0


def as_array(entries: Sequence[Entry], scores: Mapping[Entry, float]) -> Floats:
    """Scores in the order of the entries; a missing one is 0."""
    return np.array([scores.get(entry, 0.0) for entry in entries])


def as_rows(entries: Sequence[Entry], sums: Sequence[list[Entry]]) -> Floats:
    """(sums, entries): how often each entry is in each sum; terms that are no entry count 0."""
    position = {entry: i for i, entry in enumerate(entries)}
    rows = np.zeros((len(sums), len(entries)))
    for row, terms in zip(rows, sums, strict=True):
        for term in set(terms) & position.keys():
            row[position[term]] = terms.count(term)
    return rows
