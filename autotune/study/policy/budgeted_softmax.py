"""Softmax over the choices of each unit whose expected cost is within the budget."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from autotune.problem.problem import Problem

_STEEPEST = 2.0**60
"""Bound on the multiplier; above it only choices without cost have a probability."""


@dataclass(frozen=True, eq=False)
class Menu:
    """All choices of a problem as one list of entries, *frozen* first in every unit."""

    problem: Problem
    places: tuple[tuple[str, str], ...]
    """(unit, label) of each entry."""

    unit: Tensor
    """(entries,) int64: index of the unit of each entry."""

    price: Tensor
    """(entries,) float64: cost in the measure of the budget, as a fraction of the budget left."""

    @classmethod
    def of(cls, problem: Problem) -> Menu:
        """List the choices of a problem."""
        offers = [(u, c) for u in problem.units for c in problem.choices[u]]
        position = {unit: i for i, unit in enumerate(problem.units)}
        prices = [problem.price(u, c) / max(problem.room, 1) for u, c in offers]
        return cls(
            problem,
            tuple((u, c.label) for u, c in offers),
            torch.tensor([position[u] for u, _ in offers]),
            torch.tensor(prices, dtype=torch.float64),
        )

    def probabilities(self, logits: Tensor) -> Tensor:
        """Probabilities for logits (entries,), as float64 (entries,) that sum to 1 in every unit.

        Computes softmax(logits - λ·price) per unit. λ is 0 if the expected cost then fits the
        budget; otherwise it is the positive value at which the expected cost equals the budget.
        Gradients include λ, so that raising one probability lowers others. After S3Delta (NeurIPS
        2022), which shifts sigmoids.
        """
        logits = logits.to(torch.float64)
        multiplier = self.multiplier(logits)
        return self._softmax(logits - multiplier * self.price)

    def multiplier(self, logits: Tensor) -> Tensor:
        """λ for logits (entries,), a scalar, with its gradient by the implicit function theorem."""
        fixed = logits.detach().to(torch.float64)
        solved = torch.tensor(self._solve(fixed), dtype=torch.float64)
        if solved == 0:
            return solved
        p = self._softmax(fixed - solved * self.price)
        mean = self._per_unit(p * self.price)
        slope = (p * (self.price - mean[self.unit]).square()).sum()
        if slope == 0:
            return solved
        cost = (self._softmax(logits.to(torch.float64) - solved * self.price) * self.price).sum()
        return solved + (cost - cost.detach()) / slope

    def _solve(self, logits: Tensor) -> float:
        """λ by bracketing and Brent's method on the expected cost, which falls with λ."""
        from scipy.optimize import brentq  # late: a tenth of a second

        def excess(multiplier: float) -> float:
            p = self._softmax(logits - multiplier * self.price)
            return float((p * self.price).sum()) - 1.0

        if excess(0.0) <= 0:
            return 0.0
        high = 1.0
        while excess(high) > 0:
            if high >= _STEEPEST:
                return high
            high *= 2
        return float(brentq(excess, 0.0, high, xtol=1e-15, rtol=4 * np.finfo(float).eps))

    def _softmax(self, logits: Tensor) -> Tensor:
        """Softmax over the entries of each unit."""
        n = len(self.problem.units)
        largest = logits.new_full((n,), -torch.inf).scatter_reduce(0, self.unit, logits, "amax")
        e = (logits - largest.detach()[self.unit]).exp()
        return e / self._per_unit(e)[self.unit]

    def _per_unit(self, values: Tensor) -> Tensor:
        """Sums of values (entries,) over each unit, (units,)."""
        return values.new_zeros(len(self.problem.units)).index_add(0, self.unit, values)
