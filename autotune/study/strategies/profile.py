"""`profile`: each unit alone with every choice."""

from __future__ import annotations

from functools import cached_property

from autotune.errors import ConfigError
from autotune.problem.grids import Grids
from autotune.problem.knapsack import Scores
from autotune.problem.plan import Choice, Plan
from autotune.problem.problem import Problem, entries_of
from autotune.study.strategies.base import FixedSampler


class ProfileSampler(FixedSampler):
    """Proposes the empty plan, then every plan of one unit in depth order, and then ends.

    `choices` are labels (`lowrank-4`) or methods (`lowrank`), separated by commas; empty for all.
    `seeds` is the number of trainings of each plan.
    """

    admits_baselines = False

    def __init__(
        self,
        problem: Problem,
        grids: Grids,
        *,
        seed: int = 0,
        workers: int = 1,
        scores: Scores | None = None,
        choices: str = "",
        seeds: int = 1,
    ) -> None:
        super().__init__(problem, grids, seed=seed, workers=workers, scores=scores)
        self.choices = tuple(filter(None, choices.split(",")))
        self.seeds = seeds

    @cached_property
    def plans(self) -> list[Plan]:
        """All plans in order; raises `ConfigError` for a choice that no unit has."""
        offers = entries_of(self.problem)
        for name in self.choices:
            if not any(_is_named(choice, name) for _, choice in offers):
                known = ", ".join(sorted({choice.label for _, choice in offers}))
                raise ConfigError(f"No unit takes the choice {name!r} here. Known: {known}.")
        taken = [
            (unit, choice)
            for unit, choice in offers
            if not self.choices or any(_is_named(choice, name) for name in self.choices)
        ]
        return [Plan(), *(Plan({unit: choice}) for unit, choice in taken)]


def _is_named(choice: Choice, name: str) -> bool:
    return name in (choice.label, "+".join(choice.names))
