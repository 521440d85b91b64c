"""What the policy network reads of a choice: numbers by name, comparable between problems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from autotune.problem.plan import Choice
from autotune.problem.problem import Problem
from autotune.study.policy.belief import Entry, Floats, kind, log_size

Offers = Sequence[tuple[str, Choice]]
Measured = Mapping[Entry, Mapping[str, float]]
"""(unit, label) → name → a positive number that was measured on the network: `mass`, `earned`, …"""

PRIOR = "prior"
"""The feature that scores begin as: the logarithm of a product of powers of what is known."""

POWERS = {"earned": 0.25, "mass": 0.25, "price": 0.25}
"""Of the prior. They are small because gains are concave: a budget spent in two places is worth
more than the whole of it in one."""

_TINY = 1e-12


def features(problem: Problem, offers: Offers, measured: Measured) -> tuple[list[str], Floats]:
    """Names, and (offers, names) values.

    Depth and size are as they are. Prices and what was measured are logarithms, minus their mean
    and divided by their standard deviation; what was not measured counts as the least.
    """
    known = [
        {**measured.get((u, c.label), {}), "price": relative_price(problem, u, c)}
        for u, c in offers
    ]
    own = [_own(problem, unit, choice) for unit, choice in offers]
    logs = {name: _logs([found.get(name) for found in known]) for name in _names(known)}
    columns = {f"log {name}": _standard(values) for name, values in logs.items()}
    columns |= {name: np.array([o.get(name, 0.0) for o in own]) for name in _names(own)}
    terms = [power * logs[name] for name, power in POWERS.items() if name in logs]
    columns[PRIOR] = np.sum(terms, axis=0)
    return [*columns], np.array([*columns.values()]).T


def relative_price(problem: Problem, unit: str, choice: Choice) -> float:
    """Cost as a part of the room; of a method that only goes in company, the company's."""
    if (unit, choice.label) in problem.costs:
        return problem.price(unit, choice) / max(1, problem.room)
    around = [c for c in problem.choices[unit] if set(choice.methods) <= set(c.methods)]
    return min(problem.price(unit, c) for c in around) / max(1, problem.room)


def _own(problem: Problem, unit: str, choice: Choice) -> dict[str, float]:
    kinds = {f"method {kind(method)}": 1.0 for method in choice.methods}
    sizes = {f"size {kind(method)}": log_size(method) / 4 for method in choice.methods}
    depth = problem.units.index(unit) / max(1, len(problem.units) - 1)
    return {**kinds, **sizes, "depth": depth, "methods": len(choice.methods)}


def _names(found: Sequence[Mapping[str, float]]) -> list[str]:
    return sorted({name for one in found for name in one})


def _logs(values: Sequence[float | None]) -> Floats:
    least = min((v for v in values if v), default=_TINY)
    return np.log([max(v or least, _TINY) for v in values])


def _standard(values: Floats) -> Floats:
    standard: Floats = (values - values.mean()) / (values.std() or 1.0)
    return standard
