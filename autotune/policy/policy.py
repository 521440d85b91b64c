"""The policy of one search: what it knows of every choice, what it would do, what it learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from autotune.knapsack import Scores, best_plan
from autotune.plan import Choice, Plan
from autotune.policy.belief import Belief, Entry, Floats, Seen, as_rows, covariance
from autotune.policy.features import Measured, features, price_of
from autotune.policy.gates import Menu
from autotune.policy.network import PolicyNetwork
from autotune.problem import Problem

SHARPNESS = 3.0
"""Logits are so many times the scores."""

CAPACITY = 0.5
"""Power of a choice's price that its credit is multiplied by: what learns fast at first, such as a
norm, may have less to learn than what is dearer."""

STEPS, RATE = 60, 0.02
"""Of the network's learning."""


class Policy:
    """Scores of all choices: what the network says of their features, and what they earned.

    Scores are in units of their own spread. Methods that are offered only together have scores
    of their own too, since they earn by themselves.
    """

    def __init__(
        self,
        problem: Problem,
        measured: Measured,
        network: PolicyNetwork | None = None,
        *,
        seed: int,
    ) -> None:
        self.problem, self.menu = problem, Menu.of(problem)
        self.offers = _offers(problem)
        self.entries: list[Entry] = [(unit, choice.label) for unit, choice in self.offers]
        names, values = features(problem, self.offers, _of_choices(self.offers, measured))
        self.features = torch.tensor(values, dtype=torch.float32)
        self.prices = np.array([price_of(problem, *offer) for offer in self.offers])
        self.network = (network or PolicyNetwork(tuple(names))).reading(names, seed=seed)
        self.prior = self._read()
        self.covariance = covariance(problem, self.offers)
        self.earned: dict[Entry, list[float]] = {}

    def observe(self, credits: Mapping[Entry, Sequence[float]]) -> None:
        """Take in what choices earned in a round."""
        for entry, shares in credits.items():
            self.earned.setdefault(entry, []).extend(shares)

    def scores(self) -> Scores:
        """(unit, label) → score; *frozen* has 0."""
        return dict(zip(self.entries, self._scored().tolist(), strict=True))

    def plan(self) -> Plan:
        """The best plan that fits."""
        return best_plan(self.problem, self.scores())

    def first_plan(self) -> Plan:
        """What the best plan was before anything was earned."""
        return best_plan(self.problem, dict(zip(self.entries, self.prior.tolist(), strict=True)))

    def probabilities(self) -> dict[Entry, float]:
        """(unit, label), *frozen* too → how likely the policy takes it; the budget holds."""
        found = self.menu.probabilities(self._logits(torch.from_numpy(self._scored())))
        return dict(zip(self.menu.places, found.tolist(), strict=True))

    def moved(self) -> float:
        """Largest change of a probability since the prior."""
        before = self.menu.probabilities(self._logits(torch.from_numpy(self.prior)))
        now = self.menu.probabilities(self._logits(torch.from_numpy(self._scored())))
        return float((now - before).abs().max())

    def unseen(self) -> list[Entry]:
        """Choices with a method that earned nothing and was never asked to."""
        known = set(self.earned)
        return [
            (unit, choice.label)
            for unit, choice in self.offers
            if any((unit, method.label) not in known for method in choice.methods)
        ]

    def learn(self) -> None:
        """Teach the network to do what the scores say.

        It maximises the expected score under the budget, plus the entropy of its probabilities
        over the sharpness; at the maximum logits are scores times the sharpness.
        """
        target = self._logits(torch.from_numpy(self._scored())) / SHARPNESS
        optimizer = torch.optim.Adam(self.network.parameters(), RATE)
        for _ in range(STEPS):
            logits = self._logits(self.network(self.features).double())
            chances = self.menu.probabilities(logits)
            entropy = -(chances * chances.clamp_min(1e-30).log()).sum()
            loss = -(chances * target).sum() - entropy / SHARPNESS
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def _read(self) -> Floats:
        with torch.no_grad():
            scores: Floats = self.network(self.features).double().numpy()
        return scores

    def _scored(self) -> Floats:
        seen = _credited(self.entries, self.earned, self.prices**CAPACITY)
        return self.prior if seen is None else Belief(self.prior, self.covariance).after(seen)

    def _logits(self, scores: torch.Tensor) -> torch.Tensor:
        """(menu entries,) from the scores of (entries,)."""
        at = {entry: i for i, entry in enumerate(self.entries)}
        where = [at.get(place, -1) for place in self.menu.places]
        padded = torch.cat([scores, scores.new_zeros(1)])
        return SHARPNESS * padded[where]


def _offers(problem: Problem) -> list[tuple[str, Choice]]:
    """(unit, choice), and (unit, method) of methods that choices have in company only."""
    found: dict[Entry, tuple[str, Choice]] = {}
    for unit in problem.units:
        chosen = [choice for choice in problem.choices[unit] if not choice.is_frozen()]
        alone = [Choice((method,)) for choice in chosen for method in choice.methods]
        for choice in (*chosen, *alone):
            found.setdefault((unit, choice.label), (unit, choice))
    return [*found.values()]


def _of_choices(offers: Sequence[tuple[str, Choice]], measured: Measured) -> Measured:
    """What was measured of single methods, added up for choices of several."""
    return {
        (unit, choice.label): _together([measured.get((unit, m.label), {}) for m in choice.methods])
        for unit, choice in offers
    }


def _together(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    added = ("mass", "chance")
    if not all(found):
        return {}
    return {k: sum(f[k] for f in found) if k in added else found[0][k] for k in found[0]}


def _credited(
    entries: Sequence[Entry], earned: Mapping[Entry, Sequence[float]], weights: Floats
) -> Seen | None:
    """Mean credits times weights, in units of their spread, which the noise is taken off."""
    weight = dict(zip(entries, weights, strict=True))
    shares = {e: weight[e] * np.array(earned[e]) for e in entries if earned.get(e)}
    if not shares:
        return None
    several = [s.var(ddof=1) / weight[e] ** 2 for e, s in shares.items() if len(s) > 1]
    one = float(np.sqrt(np.mean(several))) if several else 0.0
    means = np.array([s.mean() for s in shares.values()])
    noise = np.array([one * weight[e] / np.sqrt(len(s)) for e, s in shares.items()])
    power = float(np.mean(means**2))
    spread = np.sqrt(max(power - float(np.mean(noise**2)), power / 10))
    if not spread > 0:
        return None
    rows = as_rows(entries, [[entry] for entry in shares])
    return Seen(rows, means / spread, np.maximum(noise / spread, 1e-3))
