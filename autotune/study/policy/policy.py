"""Policy of one search: scores of choices from measurements and credits, plans and training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from autotune.problem.knapsack import Scores, best_plan
from autotune.problem.plan import Choice, Method, Plan
from autotune.problem.problem import Problem
from autotune.study.policy.belief import Belief, Entry, Observation, as_array, as_rows, covariance
from autotune.study.policy.budgeted_softmax import Menu
from autotune.study.policy.features import Measured, features
from autotune.study.policy.network import PolicyNetwork

SHARPNESS = 3.0
"""Factor between scores and logits.

Scores have mean square 1, so a choice one above another is e³ ≈ 20 times as probable. It affects
probabilities, and with them training, but not the best plan.
"""

LEAST = 0.05
"""Lower bound of believed credits, in units of their spread.

Credits enter scores by their logarithm and must be positive; 0.05 is far below their spread of 1.
"""

ROUNDING = 1e-6
"""Credits up to this many nats count as zero, as float32 rounding causes them."""

STEPS, RATE = 100, 0.02
"""Steps of Adam and learning rate when the network is trained on the result of a search.

The network has few hundred weights and reads one batch, so both are not critical.
"""


class Policy:
    """Scores of all choices by a network whose features include the credits that they earned.

    Methods that are only offered together with others have separate features and credits.
    """

    def __init__(
        self,
        problem: Problem,
        measured: Measured,
        network: PolicyNetwork | None = None,
        *,
        seed: int,
    ) -> None:
        self.problem, self.menu, self.measured = problem, Menu.of(problem), measured
        self.offers = _offers(problem)
        self.entries: list[Entry] = [(unit, choice.label) for unit, choice in self.offers]
        self._unreached = frozenset(self.unreached())
        self.earned: dict[Entry, list[float]] = {}
        self.believed: dict[Entry, float] = {}
        self.seed = seed
        self.network = network
        self.first_scores = self.scores()

    def observe(self, credits: Mapping[Entry, Sequence[float]]) -> None:
        """Add the credits of methods from one round: (unit, label) → one value per batch."""
        for entry, shares in credits.items():
            self.earned.setdefault(entry, []).extend(shares)
        self.believed = self._earned()

    def scores(self) -> Scores:
        """(unit, label) → score of each choice that can be trained; *frozen* has score 0."""
        network, inputs = self._network()
        with torch.no_grad():
            scores = dict(zip(self.entries, network(inputs).tolist(), strict=True))
        return {entry: s for entry, s in scores.items() if entry not in self._unreached}

    def plan(self) -> Plan:
        """Plan with the largest sum of scores within the budget."""
        return best_plan(self.problem, self.scores())

    def first_plan(self) -> Plan:
        """Best plan by the scores before any credit was observed."""
        return best_plan(self.problem, self.first_scores)

    def probabilities(self, scores: Scores | None = None) -> dict[Entry, float]:
        """(unit, label) → probability, *frozen* included; the expected cost fits the budget."""
        by_place = torch.from_numpy(as_array(self.menu.places, scores or self.scores()))
        probabilities = self.menu.probabilities(SHARPNESS * by_place)
        return dict(zip(self.menu.places, probabilities.tolist(), strict=True))

    def moved(self) -> float:
        """Largest absolute change of a probability since the policy was created."""
        before, now = self.probabilities(self.first_scores), self.probabilities()
        return max(abs(now[place] - before[place]) for place in before)

    def unreached(self) -> list[Entry]:
        """Choices with a method that receives no gradient and so cannot be trained."""
        return [
            (unit, choice.label)
            for unit, choice in self.offers
            if any(self._mass(unit, method) == 0 for method in choice.methods)
        ]

    def _mass(self, unit: str, method: Method) -> float:
        return self.measured.get((unit, method.label), {}).get("mass", 1.0)

    def unseen(self) -> list[Entry]:
        """Choices with a method that was not measured in the supernet."""
        return [
            (unit, choice.label)
            for unit, choice in self.offers
            if any((unit, method.label) not in self.measured for method in choice.methods)
        ]

    def learned(self, scores: Scores) -> PolicyNetwork:
        """Network trained to reproduce these scores.

        Maximises the expected score under the budget plus the entropy of the probabilities divided
        by `SHARPNESS`, whose maximum is at logits of `SHARPNESS` times the scores.
        """
        network, inputs = self._network()
        target = torch.from_numpy(as_array(self.menu.places, scores))
        target = target / target.square().mean().sqrt().clamp_min(1e-12)
        at = _positions(self.entries, self.menu.places)
        optimizer = torch.optim.Adam(network.parameters(), RATE)
        for _ in range(STEPS):
            # The appended 0 is the score of *frozen*, which has the position -1 in `at`.
            predicted = torch.cat([network(inputs).double(), torch.zeros(1, dtype=torch.float64)])
            p = self.menu.probabilities(SHARPNESS * predicted[at])
            entropy = -(p * p.clamp_min(1e-30).log()).sum()
            loss = -(p * target).sum() - entropy / SHARPNESS
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return network

    def _network(self) -> tuple[PolicyNetwork, torch.Tensor]:
        """Network for the features of this problem, and these features (entries, names)."""
        names, values = features(self.problem, self.offers, self._known())
        network = self.network or PolicyNetwork(names, seed=self.seed)
        return network.reading(names, seed=self.seed), torch.tensor(values, dtype=torch.float32)

    def _known(self) -> dict[Entry, dict[str, float]]:
        """Measurements and believed credits of each entry, combined over its methods."""
        single = {
            entry: dict(measured)
            | ({"earned": self.believed[entry]} if entry in self.believed else {})
            for entry, measured in self.measured.items()
        }
        return {
            (unit, choice.label): _together(
                [single.get((unit, m.label), {}) for m in choice.methods]
            )
            for unit, choice in self.offers
        }

    def _earned(self) -> dict[Entry, float]:
        """Posterior mean of the credits of each entry, in units of their spread."""
        seen = _credited(self.entries, self.earned)
        if seen is None:
            return {}
        zero = np.zeros(len(self.entries))
        mean = Belief(zero, covariance(self.problem, self.offers)).after(seen)
        return dict(zip(self.entries, mean.clip(min=LEAST).tolist(), strict=True))


def _offers(problem: Problem) -> list[tuple[str, Choice]]:
    """(unit, choice) pairs, and those of single methods that are only offered in combinations."""
    offers: dict[Entry, tuple[str, Choice]] = {}
    for unit in problem.units:
        chosen = [choice for choice in problem.choices[unit] if not choice.is_frozen()]
        alone = [Choice((method,)) for choice in chosen for method in choice.methods]
        for choice in (*chosen, *alone):
            offers.setdefault((unit, choice.label), (unit, choice))
    return [*offers.values()]


_ADDED = ("mass", "chance", "earned")
"""Measurements that add up over the methods of a choice."""


def _together(methods: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Measurements of a choice from those of its methods; empty if one of them has none."""
    if not all(methods):
        return {}
    first = methods[0]
    return {k: sum(m[k] for m in methods) if k in _ADDED else first[k] for k in first}


def _credited(
    entries: Sequence[Entry], earned: Mapping[Entry, Sequence[float]]
) -> Observation | None:
    """Mean credits in units of their spread without noise; None if all of them are zero."""
    shares = {entry: np.array(earned[entry]) for entry in entries if earned.get(entry)}
    means = np.array([s.mean() for s in shares.values()])
    if not np.abs(means).max(initial=0.0) > ROUNDING:
        return None
    several = [s.var(ddof=1) for s in shares.values() if len(s) > 1]
    one = np.mean(several) if several else 0.0
    noise = np.sqrt([one / len(s) for s in shares.values()])
    power = np.mean(means**2)
    spread = np.sqrt(max(power - np.mean(noise**2), power / 10))
    rows = as_rows(entries, [[entry] for entry in shares])
    return Observation(rows, means / spread, np.maximum(noise / spread, 1e-3))


def _positions(entries: Sequence[Entry], places: Sequence[Entry]) -> list[int]:
    """Index of each place among the entries; -1 for *frozen*."""
    at = {entry: i for i, entry in enumerate(entries)}
    return [at.get(place, -1) for place in places]
