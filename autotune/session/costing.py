"""Build the problem of a search: resolve its budget, charge the head, price the candidates."""

from __future__ import annotations

from autotune.backbones.base import Backbone
from autotune.backbones.precision import trained_dtype
from autotune.backbones.units import Units
from autotune.deltas.candidates import find_candidates, method_facts
from autotune.problem.budget import Budget, Cost
from autotune.problem.problem import Candidates, Problem, require_room
from autotune.problem.search_space import SearchSpace
from autotune.run.settings import Settings
from autotune.training.batchnorm import statistics_cost


def make_problem(
    settings: Settings, backbone: Backbone, units: Units, space: SearchSpace, n_classes: int
) -> tuple[Candidates, Problem]:
    """Candidates of a search, and its problem with the head charged.

    Sizes that follow from the budget leave room for re-estimated statistics if these may be
    charged later. Raises `BudgetError` if nothing fits the budget.
    """
    budget, fixed = parse_budget(settings, backbone), head_cost(settings, backbone, n_classes)
    statistics = Cost() if settings.bnstats == "off" else statistics_cost(backbone.network)
    candidates = candidates_within(backbone, units, space, budget, fixed + statistics)
    problem = Problem.of(candidates, budget, fixed=fixed + statistics)
    if settings.bnstats == "auto" and problem.is_empty():
        # No room for statistics: the preparation will not re-estimate them.
        candidates = candidates_within(backbone, units, space, budget, fixed)
        problem = Problem.of(candidates, budget, fixed=fixed)
    require_room(problem, candidates)
    facts = method_facts(candidates)
    return candidates, Problem.of(candidates, budget, fixed=fixed, methods=facts)


def candidates_within(
    backbone: Backbone, units: Units, space: SearchSpace, budget: Budget, fixed: Cost
) -> Candidates:
    """Choices of each unit and span with their costs; sizes fit what the budget leaves."""
    room = max(budget.limit - fixed[budget.measure], 0)
    return find_candidates(backbone.network, units, space, room=room, measure=budget.measure)


def parse_budget(settings: Settings, backbone: Backbone) -> Budget:
    """Resolve the budget; 100 % are the backbone's parameters, without its old head."""
    parameters = backbone.parameters().values()
    n = sum(p.numel() for p in parameters)
    total = Cost(n, n, sum(p.numel() * p.element_size() for p in parameters))
    return Budget.parse(settings.budget, total)


def head_cost(settings: Settings, backbone: Backbone, classes: int) -> Cost:
    """Cost of the task's head if it is counted, else zero."""
    if not settings.count_head:
        return Cost()
    parameters = list(backbone.new_head(classes).parameters())
    n = sum(p.numel() for p in parameters)
    return Cost(n, n, n * trained_dtype(parameters[0].dtype).itemsize)
