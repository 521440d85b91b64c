"""Strategies propose plans. Each is an Optuna sampler in its own file and a line of this table."""

from __future__ import annotations

from inspect import signature
from typing import TYPE_CHECKING, Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from autotune.errors import ConfigError, unknown
from autotune.utils.lazy_names import lazy_names
from autotune.utils.registry import Registry

if TYPE_CHECKING:
    from autotune.study.strategies.base import BudgetedSampler as BudgetedSampler
    from autotune.study.strategies.base import DecodingSampler as DecodingSampler
    from autotune.study.strategies.base import FixedSampler as FixedSampler
    from autotune.study.strategies.base import ListingSampler as ListingSampler
    from autotune.study.strategies.base import PlanSampler as PlanSampler
    from autotune.study.strategies.base import hyperparameters_of as hyperparameters_of
    from autotune.study.strategies.base import plan_of as plan_of
    from autotune.study.strategies.base import search_space as search_space

_HOMES = dict.fromkeys(
    (
        "BudgetedSampler",
        "DecodingSampler",
        "FixedSampler",
        "ListingSampler",
        "PlanSampler",
        "hyperparameters_of",
        "plan_of",
        "search_space",
    ),
    "base",
)

__all__ = ["STRATEGIES", "check_options", "load_strategy", *_HOMES]
__getattr__ = lazy_names(__name__, _HOMES)

STRATEGIES = Registry(
    "strategy",
    {
        "policy": "autotune.study.strategies.policy:PolicySampler",
        "proxy": "autotune.study.strategies.proxy:ProxySampler",
        "greedy": "autotune.study.strategies.greedy:GreedySampler",
        "tpe": "autotune.study.strategies.tpe:BudgetedTPE",
        "gp": "autotune.study.strategies.gp:BudgetedGP",
        "nsga2": "autotune.study.strategies.nsga2:FrontSampler",
        "qmc": "autotune.study.strategies.qmc:BudgetedSobol",
        "random": "autotune.study.strategies.random:BudgetedRandom",
        "profile": "autotune.study.strategies.profile:ProfileSampler",
        "bruteforce": "autotune.study.strategies.bruteforce:BruteForceSampler",
    },
)

_ARGUMENTS = ("problem", "grids", "seed", "workers", "scores")
"""Arguments that every strategy's constructor takes; its other arguments are its options."""


def load_strategy(name: str) -> type[PlanSampler]:
    """Class of a strategy, whose class attributes state its facts."""
    strategy: type[PlanSampler] = STRATEGIES.load(name)
    return strategy


def check_options(strategy: str, options: dict[str, Any]) -> dict[str, Any]:
    """Convert a strategy's options to the types that its constructor declares.

    Raises `ConfigError` for unknown options and values of another type.
    """
    make = load_strategy(strategy)
    declared = [
        name
        for name, parameter in signature(make).parameters.items()
        if name not in _ARGUMENTS
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    types, checked = get_type_hints(make.__init__), {}
    for name, value in options.items():
        if not declared:
            raise ConfigError(f"The strategy {strategy} takes no options, got {name!r}.")
        if name not in declared:
            raise ConfigError(unknown(f"option of the strategy {strategy}", name, declared))
        try:
            checked[name] = TypeAdapter(types[name]).validate_python(value)
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise ConfigError(
                f"The option {name} of {strategy} must be valid, {value!r} is not ({reason})."
            ) from error
    return checked
