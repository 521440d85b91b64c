"""What the policy network reads of a choice: numbers by name, comparable between problems."""

from __future__ import annotations

from collections.abc import Mapping
from math import log10, sqrt

import numpy as np

from autotune.plan import Choice
from autotune.policy.belief import Entry, Floats, kind, log_size
from autotune.problem import Problem

Measured = Mapping[Entry, Mapping[str, float]]
"""(unit, label) → name → a positive number that was measured on the network, as a proxy."""

PRIOR = "prior"
"""The feature that the scores begin as: √(mass·price·mass/chance), 1 in the mean of squares."""


def features(
    problem: Problem, entries: list[tuple[str, Choice]], measured: Measured
) -> tuple[list[str], Floats]:
    """Names, and (entries, names) values.

    Depth, price and size are as they are; what was measured is in logarithms, minus their mean
    and divided by their standard deviation over this problem's entries.
    """
    columns: dict[str, list[float]] = {}
    depth = {unit: i / max(1, len(problem.units) - 1) for i, unit in enumerate(problem.units)}
    for row, (unit, choice) in enumerate(entries):
        for name, value in {**_own(problem, unit, choice), "depth": depth[unit]}.items():
            columns.setdefault(name, [0.0] * len(entries))[row] = value
    keys = [(unit, choice.label) for unit, choice in entries]
    names = sorted({name for found in measured.values() for name in found})
    for name in names:
        values = [measured.get(key, {}).get(name, 0.0) for key in keys]
        columns[f"log {name}"] = _standard(np.log(np.maximum(values, _TINY)))
    columns[PRIOR] = _prior(problem, entries, measured)
    return [*columns], np.array([*columns.values()]).T


_TINY = 1e-12


def _own(problem: Problem, unit: str, choice: Choice) -> dict[str, float]:
    price = price_of(problem, unit, choice)
    kinds = {f"method {kind(method)}": 1.0 for method in choice.methods}
    sizes = {f"size {kind(method)}": log_size(method) / 4 for method in choice.methods}
    return {**kinds, **sizes, "log price": log10(max(price, _TINY)), "methods": len(choice.methods)}


def price_of(problem: Problem, unit: str, choice: Choice) -> float:
    """Cost as a part of the room; of a method that only goes in company, the company's."""
    if (unit, choice.label) in problem.costs:
        return problem.price(unit, choice) / max(1, problem.room)
    around = [c for c in problem.choices[unit] if set(choice.methods) <= set(c.methods)]
    return min(problem.price(unit, c) for c in around) / max(1, problem.room)


def _standard(values: Floats) -> list[float]:
    spread = float(values.std()) or 1.0
    standard: list[float] = ((values - values.mean()) / spread).tolist()
    return standard


def _prior(problem: Problem, entries: list[tuple[str, Choice]], measured: Measured) -> list[float]:
    raw = [_raw_prior(problem, u, c, measured.get((u, c.label), {})) for u, c in entries]
    size = sqrt(sum(value**2 for value in raw) / max(1, len(raw))) or 1.0
    return [value / size for value in raw]


def _raw_prior(problem: Problem, unit: str, choice: Choice, found: Mapping[str, float]) -> float:
    if not found.get("mass"):
        return 0.0
    mass, chance = found["mass"], max(found.get("chance", 0.0), _TINY)
    return sqrt(mass * price_of(problem, unit, choice) * mass / chance)
