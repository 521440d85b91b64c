"""Rounds of a supernet: it trains, choices earn, the policy looks; until its plan is stable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from autotune.problem.plan import Plan
from autotune.study.policy.belief import Entry
from autotune.study.policy.policy import Policy

ALIKE = 0.85
"""Plans that share so much of their choices are the same plan (BIPEFT, arXiv 2410.09079)."""

STABLE = 2
"""Rounds in which the plan must have stayed the same."""


class Shot(Protocol):
    """What the policy sees of a supernet."""

    def train(self) -> None:
        """One epoch."""

    def credits(self) -> Mapping[Entry, Sequence[float]]:
        """(unit, label) → what it earned, once a batch."""


@dataclass(frozen=True)
class Schedule:
    """How long a supernet trains."""

    warmup: int
    """Rounds before the first in which choices earn."""

    rounds: int
    """At most, those of the warm-up included."""

    @classmethod
    def of(cls, epochs: int) -> Schedule:
        """For trials of so many epochs: three tenths of them, then at most four more."""
        warmup = max(1, round(0.3 * epochs))
        return cls(warmup, warmup + max(2, round(0.4 * epochs)))


@dataclass
class Course:
    """Where the rounds stand."""

    done: int = 0
    plans: tuple[Plan, ...] = ()
    """The best plan after every round in which choices earned."""

    probabilities: tuple[Mapping[Entry, float], ...] = ()

    @property
    def is_stable(self) -> bool:
        """Whether the plan has stayed the same for some rounds."""
        last = self.plans[-STABLE - 1 :]
        return len(last) > STABLE and all(alike(last[-1], plan) >= ALIKE for plan in last)


def run_rounds(policy: Policy, shot: Shot, schedule: Schedule, course: Course) -> Iterator[Course]:
    """Go on until the plan is stable or the rounds are over; the course after every round."""
    while course.done < schedule.rounds and not course.is_stable:
        shot.train()
        if course.done >= schedule.warmup:
            policy.observe(shot.credits())
            course.plans += (policy.plan(),)
            course.probabilities += (policy.probabilities(),)
        course.done += 1
        yield course


def alike(first: Plan, second: Plan) -> float:
    """Share of the units that either changes in which both make the same choice; 1 for none."""
    either = {*first, *second}
    return sum(first[u] == second[u] for u in either) / len(either) if either else 1.0
