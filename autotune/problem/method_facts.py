"""Facts about methods that a search needs in addition to their costs, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from autotune.problem.plan import Choice


@dataclass(frozen=True)
class MethodFacts:
    """Facts that the methods of a problem state on their classes."""

    alone: frozenset[str] = frozenset()
    """Methods that leave all else frozen: a plan with one of them has no other choice."""

    uniform: str = ""
    """Method of the uniform baseline; empty if the problem has none."""

    uniform_size: str = ""
    """Option of this method that the baseline raises equally in all units."""

    def goes_alone(self, choice: Choice) -> bool:
        """Whether a choice must be the only one of its plan."""
        return not self.alone.isdisjoint(choice.names)

    def size_in_uniform(self, choice: Choice) -> int | None:
        """Size of a choice that the uniform baseline may take; None for any other choice."""
        if choice.names != (self.uniform,):
            return None
        return int(dict(choice.methods[0].options)[self.uniform_size])

    def to_json(self) -> dict[str, Any]:
        """The facts as JSON, for `from_json`."""
        return {
            "alone": sorted(self.alone),
            "uniform": self.uniform,
            "uniform_size": self.uniform_size,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> MethodFacts:
        """Read the facts that `to_json` wrote."""
        return cls(frozenset(data["alone"]), data["uniform"], data["uniform_size"])
