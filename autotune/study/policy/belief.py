"""Gaussian belief over the scores of choices, which add up to the value of a plan."""

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
    """Prior standard deviations of the components that add up to the score of a choice.

    For scores with mean square 1. Values are not critical: on tables of all plans of a small
    space smaller ones changed regrets by less than their standard error (docs/policy.md).
    """

    method: float = 0.6
    """Component that all choices with the same method share."""

    near: float = 0.4
    """Component of a method at about the same depth."""

    place: float = 0.3
    """Component of a method in one unit, shared by all its sizes."""

    unit: float = 0.3
    """Component of a unit, shared by all its choices."""

    choice: float = 0.3
    """Component of a single choice."""


@dataclass(frozen=True, eq=False)
class Observation:
    """Noisy observations of sums of scores."""

    rows: Floats
    """(n, entries) float64: multiplicity of each entry in each sum."""

    values: Floats
    """(n,) observed sums."""

    noise: Floats
    """(n,) standard deviations of the observation noise."""


@dataclass(frozen=True, eq=False)
class Belief:
    """Gaussian prior over the scores of entries. *Frozen* is not an entry: its score is 0."""

    mean: Floats
    """(entries,) prior mean."""

    covariance: Floats
    """(entries, entries) prior covariance."""

    def after(self, seen: Observation) -> Floats:
        """Posterior mean of the scores given `seen`, (entries,)."""
        return self._shifted(self.mean, seen.values, seen)

    def drawn(self, seen: Observation, generator: np.random.Generator) -> Floats:
        """Sample of the scores from the posterior given `seen`, (entries,), by Matheron's rule."""
        n = len(self.mean)
        # Jitter of 1e-9 of the mean variance keeps a singular covariance positive definite.
        root = np.linalg.cholesky(
            self.covariance + 1e-9 * np.trace(self.covariance) / n * np.eye(n)
        )
        draw = self.mean + root @ generator.standard_normal(n)
        error = seen.noise * generator.standard_normal(len(seen.values))
        return self._shifted(draw, seen.values + error, seen)

    def evidence(self, seen: Observation, scales: Floats) -> Floats:
        """Log likelihood of `seen` up to a constant, (scales,), if its unit is each of `scales`."""
        root = np.linalg.cholesky(self._of_values(seen))
        values, means = np.linalg.solve(root, np.stack([seen.values, seen.rows @ self.mean], 1)).T
        off = values / scales[:, None] - means
        level = np.log(np.diag(root)).sum() + len(values) * np.log(scales)
        likelihoods: Floats = -level - (off**2).sum(1) / 2
        return likelihoods

    def _shifted(self, scores: Floats, values: Floats, seen: Observation) -> Floats:
        """`scores` plus the Kalman gain times their error on the observed sums."""
        if not len(values):
            return scores
        off = np.linalg.solve(self._of_values(seen), values - seen.rows @ scores)
        shifted: Floats = scores + self.covariance @ (seen.rows.T @ off)
        return shifted

    def _of_values(self, seen: Observation) -> Floats:
        """Covariance of the observed sums, noise included, (n, n)."""
        covariance: Floats = seen.rows @ self.covariance @ seen.rows.T + np.diag(seen.noise**2)
        return covariance


def covariance(
    problem: Problem, entries: Sequence[tuple[str, Choice]], spread: Spread = Spread()
) -> Floats:
    """Prior covariance of the scores of (unit, choice) pairs, (entries, entries).

    Choices with a common method correlate, more strongly within a unit, at a similar depth and for
    similar sizes. The score of a choice with two methods is the sum of both.
    """
    position = {unit: i for i, unit in enumerate(problem.units)}
    units = np.array([position[unit] for unit, _ in entries])
    depth = units / max(1, len(problem.units) - 1)
    together = (units[:, None] == units).astype(float)
    near = np.exp(-(((depth[:, None] - depth) / _REACH) ** 2) / 2)
    kin = _kinship([choice for _, choice in entries])
    prior: Floats = (
        kin * (spread.method**2 + spread.near**2 * near + spread.place**2 * together)
        + spread.unit**2 * together
        + spread.choice**2 * np.eye(len(entries))
    )
    return prior


_REACH = 0.3
"""Length scale of the similarity of depths, as a fraction of the depth of the network.

About a third, so that early, middle and late units are told apart.
"""

_PER_DOUBLING = 0.5
"""Change of a method's score per doubling of its size, in its standard deviations.

A priori, scores of ranks 1 and 4 differ by about one standard deviation.
"""


def _kinship(choices: Sequence[Choice]) -> Floats:
    """Similarity of choices by common methods and sizes, (choices, choices)."""
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
    """Name of a method with its text options but no numbers, such as `subtune-norms`."""
    return "-".join([method.name, *(v for _, v in method.options if isinstance(v, str))])


def log_size(method: Method) -> float:
    """log₂ of the first number among the options of a method; 0 if there is none."""
    numbers = [v for _, v in method.options if isinstance(v, int) and not isinstance(v, bool)]
    return log2(max(1, numbers[0])) if numbers else 0.0


def as_array(entries: Sequence[Entry], scores: Mapping[Entry, float]) -> Floats:
    """Scores in the order of the entries, (entries,); missing ones are 0."""
    return np.array([scores.get(entry, 0.0) for entry in entries])


def as_rows(entries: Sequence[Entry], sums: Sequence[list[Entry]]) -> Floats:
    """Multiplicity of each entry in each sum, (sums, entries); other terms are ignored."""
    position = {entry: i for i, entry in enumerate(entries)}
    rows = np.zeros((len(sums), len(entries)))
    for row, terms in zip(rows, sums, strict=True):
        for term in set(terms) & position.keys():
            row[position[term]] = terms.count(term)
    return rows
