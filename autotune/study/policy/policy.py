"""The policy of one search: what it knows of every choice, what it would do, what it learned."""

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
"""Logits are so many times the scores."""

LEAST = 0.05
"""Of what choices earn in the mean of squares: what each is believed to earn at least."""

ROUNDING = 1e-6
"""Credits of no more than so many nats are none."""

STEPS, RATE = 100, 0.02
"""Of the network's learning."""


class Policy:
    """Scores of all choices by a network that reads their features, what they earn among these.

    Methods that are offered only in company have features and credits of their own.
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
        """Take in what methods earned in a round."""
        for entry, shares in credits.items():
            self.earned.setdefault(entry, []).extend(shares)
        self.believed = self._earned()

    def scores(self) -> Scores:
        """(unit, label) → score, of those that can be trained; *frozen* has 0."""
        network, read = self._network()
        with torch.no_grad():
            scores = dict(zip(self.entries, network(read).tolist(), strict=True))
        return {entry: s for entry, s in scores.items() if entry not in self._unreached}

    def plan(self) -> Plan:
        """The best plan that fits."""
        return best_plan(self.problem, self.scores())

    def first_plan(self) -> Plan:
        """What it was before anything was earned."""
        return best_plan(self.problem, self.first_scores)

    def probabilities(self, scores: Scores | None = None) -> dict[Entry, float]:
        """(unit, label), *frozen* too → how likely it is taken; the budget holds."""
        given = torch.from_numpy(as_array(self.menu.places, scores or self.scores()))
        found = self.menu.probabilities(SHARPNESS * given)
        return dict(zip(self.menu.places, found.tolist(), strict=True))

    def moved(self) -> float:
        """Largest change of a probability since the beginning."""
        before, now = self.probabilities(self.first_scores), self.probabilities()
        return max(abs(now[place] - before[place]) for place in before)

    def unreached(self) -> list[Entry]:
        """Choices with a method that no gradient reaches, so that it cannot be trained."""
        return [
            (unit, choice.label)
            for unit, choice in self.offers
            if any(self._mass(unit, method) == 0 for method in choice.methods)
        ]

    def _mass(self, unit: str, method: Method) -> float:
        return self.measured.get((unit, method.label), {}).get("mass", 1.0)

    def unseen(self) -> list[Entry]:
        """Choices with a method that no supernet had."""
        return [
            (unit, choice.label)
            for unit, choice in self.offers
            if any((unit, method.label) not in self.measured for method in choice.methods)
        ]

    def learned(self, scores: Scores) -> PolicyNetwork:
        """The network, taught to do what these scores say.

        It maximises the expected score under the budget, plus the entropy of its probabilities
        over the sharpness; at the maximum logits are scores times the sharpness.
        """
        network, read = self._network()
        target = torch.from_numpy(as_array(self.menu.places, scores))
        target = target / target.square().mean().sqrt().clamp_min(1e-12)
        at = _positions(self.entries, self.menu.places)
        optimizer = torch.optim.Adam(network.parameters(), RATE)
        for _ in range(STEPS):
            own = torch.cat([network(read).double(), torch.zeros(1, dtype=torch.float64)])[at]
            chances = self.menu.probabilities(SHARPNESS * own)
            entropy = -(chances * chances.clamp_min(1e-30).log()).sum()
            loss = -(chances * target).sum() - entropy / SHARPNESS
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return network

    def _network(self) -> tuple[PolicyNetwork, torch.Tensor]:
        """For the features of this problem, and these."""
        names, values = features(self.problem, self.offers, self._known())
        network = self.network or PolicyNetwork(names, seed=self.seed)
        return network.reading(names, seed=self.seed), torch.tensor(values, dtype=torch.float32)

    def _known(self) -> dict[Entry, dict[str, float]]:
        """What was measured and earned, of choices of several methods together."""
        single = {
            entry: dict(found)
            | ({"earned": self.believed[entry]} if entry in self.believed else {})
            for entry, found in self.measured.items()
        }
        return {
            (unit, choice.label): _together(
                [single.get((unit, m.label), {}) for m in choice.methods]
            )
            for unit, choice in self.offers
        }

    def _earned(self) -> dict[Entry, float]:
        """What each entry is believed to earn, in units of their spread."""
        seen = _credited(self.entries, self.earned)
        if seen is None:
            return {}
        zero = np.zeros(len(self.entries))
        mean = Belief(zero, covariance(self.problem, self.offers)).after(seen)
        return dict(zip(self.entries, mean.clip(min=LEAST).tolist(), strict=True))


def _offers(problem: Problem) -> list[tuple[str, Choice]]:
    """(unit, choice), and (unit, method) of methods that choices have in company only."""
    found: dict[Entry, tuple[str, Choice]] = {}
    for unit in problem.units:
        chosen = [choice for choice in problem.choices[unit] if not choice.is_frozen()]
        alone = [Choice((method,)) for choice in chosen for method in choice.methods]
        for choice in (*chosen, *alone):
            found.setdefault((unit, choice.label), (unit, choice))
    return [*found.values()]


_ADDED = ("mass", "chance", "earned")


def _together(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of methods in company what adds up, and of the first what they have in common."""
    if not all(found):
        return {}
    return {k: sum(f[k] for f in found) if k in _ADDED else found[0][k] for k in found[0]}


def _credited(
    entries: Sequence[Entry], earned: Mapping[Entry, Sequence[float]]
) -> Observation | None:
    """Mean credits in units of their spread, which the noise is taken off; None without any."""
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
    """Where each place is among the entries; -1 for *frozen*."""
    at = {entry: i for i, entry in enumerate(entries)}
    return [at.get(place, -1) for place in places]
