"""Probabilities under a budget: a softmax over each unit's choices, and one multiplier on cost."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

from autotune.problem.problem import Problem

_STEEPEST = 2.0**60
"""A multiplier above which nothing but free choices is left."""


@dataclass(frozen=True, eq=False)
class Menu:
    """All choices of a problem in one row, *frozen* first in every unit."""

    problem: Problem
    places: tuple[tuple[str, str], ...]
    """(unit, label) of every entry."""

    unit: Tensor
    """(entries,) int64: position of the entry's unit."""

    price: Tensor
    """(entries,) float64: cost in the budget's measure, as a part of the room."""

    @classmethod
    def of(cls, problem: Problem) -> Menu:
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
        """(entries,) float64 that sum to 1 in every unit, of logits (entries,).

        softmax(logits - λ·price) with the λ ≥ 0 at which the expected cost is the room, or less
        where it is less at λ = 0. Gradients go through λ, so that what one choice gains others
        lose. (After S3Delta, NeurIPS 2022, whose shift is on sigmoids.)
        """
        logits = logits.to(torch.float64)
        multiplier = self.multiplier(logits)
        return self._softmax(logits - multiplier * self.price)

    def multiplier(self, logits: Tensor) -> Tensor:
        """λ, with its gradient by the implicit function theorem."""
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
        def over(multiplier: float) -> float:
            p = self._softmax(logits - multiplier * self.price)
            return float((p * self.price).sum()) - 1.0

        if over(0.0) <= 0:
            return 0.0
        high = 1.0
        while over(high) > 0:
            if high >= _STEEPEST:
                return high
            high *= 2
        return float(brentq(over, 0.0, high, xtol=1e-15, rtol=4 * np.finfo(float).eps))

    def _softmax(self, logits: Tensor) -> Tensor:
        n = len(self.problem.units)
        largest = logits.new_full((n,), -torch.inf).scatter_reduce(0, self.unit, logits, "amax")
        e = (logits - largest.detach()[self.unit]).exp()
        return e / self._per_unit(e)[self.unit]

    def _per_unit(self, values: Tensor) -> Tensor:
        return values.new_zeros(len(self.problem.units)).index_add(0, self.unit, values)
