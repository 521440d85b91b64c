"""Rounds of supernet training and credits, repeated until the plan of the policy is stable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from autotune.problem.plan import Plan
from autotune.study.policy.belief import Entry
from autotune.study.policy.policy import Policy

ALIKE = 0.85
"""Fraction of equal choices from which two plans count as the same (BIPEFT, arXiv 2410.09079)."""

STABLE = 2
"""Rounds during which the plan must stay the same to count as stable.

One could agree by chance; each further one costs an epoch of the supernet.
"""


class Shot(Protocol):
    """Interface of a supernet for the policy."""

    def train(self) -> None:
        """Train for one epoch."""

    def credits(self) -> Mapping[Entry, Sequence[float]]:
        """(unit, label) → credits, one per batch."""


@dataclass(frozen=True)
class Schedule:
    """Length of the training of a supernet, in rounds of one epoch."""

    warmup: int
    """Rounds before the first one with credits."""

    rounds: int
    """Maximum number of rounds, including the warm-up."""

    @classmethod
    def of(cls, epochs: int) -> Schedule:
        """Schedule for trials of `epochs`: 30 % of them as warm-up, at most 40 % with credits.

        At least two rounds have credits, and from 5 epochs on the supernet is shorter than a trial.
        """
        warmup = max(1, round(0.3 * epochs))
        return cls(warmup, warmup + max(2, round(0.4 * epochs)))


@dataclass
class Course:
    """Progress of the rounds."""

    done: int = 0
    plans: tuple[Plan, ...] = ()
    """Best plan after each round with credits."""

    probabilities: tuple[Mapping[Entry, float], ...] = ()
    """(unit, label) → probability, after each round with credits."""

    @property
    def is_stable(self) -> bool:
        """Whether the plan has stayed the same for `STABLE` rounds."""
        last = self.plans[-STABLE - 1 :]
        return len(last) > STABLE and all(alike(last[-1], plan) >= ALIKE for plan in last)


def run_rounds(policy: Policy, shot: Shot, schedule: Schedule, course: Course) -> Iterator[Course]:
    """Run rounds until the plan is stable or the schedule ends; yield the course after each."""
    while course.done < schedule.rounds and not course.is_stable:
        shot.train()
        if course.done >= schedule.warmup:
            policy.observe(shot.credits())
            course.plans += (policy.plan(),)
            course.probabilities += (policy.probabilities(),)
        course.done += 1
        yield course


def alike(first: Plan, second: Plan) -> float:
    """Fraction of the units changed by either plan in which both choose the same; 1 if none is."""
    either = {*first, *second}
    return sum(first[u] == second[u] for u in either) / len(either) if either else 1.0
