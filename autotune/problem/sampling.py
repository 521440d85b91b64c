"""Random plans, and seeds that depend on values alone."""

from __future__ import annotations

import hashlib
import random

from autotune.problem.plan import FROZEN, Choice, Plan
from autotune.problem.problem import Problem


def random_placement(problem: Problem, seed: int) -> Plan:
    """Random plan: units in random order, each with a random choice that still fits."""
    draw = random.Random(seed_of(seed, "random placement"))
    room = problem.room
    plan: dict[str, Choice] = {}
    for unit in draw.sample(problem.units, len(problem.units)):
        choices = problem.choices[unit]
        fitting = [c for c in choices if c != FROZEN and problem.price(unit, c) <= room]
        fitting = [c for c in fitting if not (plan and problem.goes_alone(c))]
        if fitting:
            plan[unit] = draw.choice(fitting)
            room -= problem.price(unit, plan[unit])
            if problem.goes_alone(plan[unit]):
                break
    return Plan(plan)


def seed_of(*parts: object) -> int:
    """32-bit seed from a few values, the same on every machine."""
    text = ":".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
