"""Plain values: the choices in a network, their costs, and the budget."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autotune.utils.lazy_names import lazy_names

if TYPE_CHECKING:
    from autotune.problem.budget import Budget as Budget
    from autotune.problem.budget import Cost as Cost
    from autotune.problem.budget import Measure as Measure
    from autotune.problem.grids import Grids as Grids
    from autotune.problem.job import Job as Job
    from autotune.problem.job import Progress as Progress
    from autotune.problem.plan import Choice as Choice
    from autotune.problem.plan import Method as Method
    from autotune.problem.plan import Plan as Plan
    from autotune.problem.problem import Problem as Problem
    from autotune.problem.search_space import SearchSpace as SearchSpace

_HOMES = {
    "Budget": "budget",
    "Choice": "plan",
    "Cost": "budget",
    "Grids": "grids",
    "Job": "job",
    "Measure": "budget",
    "Method": "plan",
    "Plan": "plan",
    "Problem": "problem",
    "Progress": "job",
    "SearchSpace": "search_space",
}

__all__ = sorted(_HOMES)
__getattr__ = lazy_names(__name__, _HOMES)
