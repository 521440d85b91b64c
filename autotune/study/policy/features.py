"""Features of choices for the policy network, by name and comparable between problems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from autotune.problem.plan import Choice
from autotune.problem.problem import Problem
from autotune.study.policy.belief import Entry, Floats, kind, log_size

Offers = Sequence[tuple[str, Choice]]
"""(unit, choice) pairs."""

Measured = Mapping[Entry, Mapping[str, float]]
"""(unit, label) → name → positive measurement on the network, such as `mass`."""

PRIOR = "prior"
"""Name of the feature that initialises scores: the log of a product of powers of measurements."""

POWERS = {"earned": 0.25, "mass": 0.25, "price": 0.25}
"""Exponents of the prior feature.

Small, because gains are concave: a budget split between two units is worth more than all of it in
one. Scores linear in credits were three points worse on noisy digits at 1 %; exponents between 1/8
and 1/2 made no difference there (docs/policy.md).
"""

_TINY = 1e-12
"""Lower bound of measurements before the logarithm."""


def features(problem: Problem, offers: Offers, measured: Measured) -> tuple[list[str], Floats]:
    """Names of the features and their values, float64 (offers, names).

    Prices and measurements are standardised logarithms, in which a missing measurement counts as
    the smallest one. Depth, sizes and methods are not standardised.
    """
    measurements = [
        {**measured.get((u, c.label), {}), "price": relative_price(problem, u, c)}
        for u, c in offers
    ]
    described = [_description(problem, unit, choice) for unit, choice in offers]
    names = _names(measurements)
    logs = {name: _logs([values.get(name) for values in measurements]) for name in names}
    columns = {f"log {name}": _standard(values) for name, values in logs.items()}
    for name in _names(described):
        columns[name] = np.array([values.get(name, 0.0) for values in described])
    terms = [power * logs[name] for name, power in POWERS.items() if name in logs]
    columns[PRIOR] = np.sum(terms, axis=0)
    return [*columns], np.array([*columns.values()]).T


def relative_price(problem: Problem, unit: str, choice: Choice) -> float:
    """Cost as a fraction of the budget left.

    For a method that is only offered together with others, that of the cheapest such choice.
    """
    if (unit, choice.label) in problem.costs:
        return problem.price(unit, choice) / max(1, problem.room)
    containing = [c for c in problem.choices[unit] if set(choice.methods) <= set(c.methods)]
    return min(problem.price(unit, c) for c in containing) / max(1, problem.room)


def _description(problem: Problem, unit: str, choice: Choice) -> dict[str, float]:
    kinds = {f"method {kind(method)}": 1.0 for method in choice.methods}
    # Divided by 4 to keep the feature near 1: the size 16 has log₂ 4.
    sizes = {f"size {kind(method)}": log_size(method) / 4 for method in choice.methods}
    depth = problem.units.index(unit) / max(1, len(problem.units) - 1)
    return {**kinds, **sizes, "depth": depth, "methods": len(choice.methods)}


def _names(rows: Sequence[Mapping[str, float]]) -> list[str]:
    return sorted({name for row in rows for name in row})


def _logs(values: Sequence[float | None]) -> Floats:
    least = min((v for v in values if v), default=_TINY)
    return np.log([max(v or least, _TINY) for v in values])


def _standard(values: Floats) -> Floats:
    standard: Floats = (values - values.mean()) / (values.std() or 1.0)
    return standard
