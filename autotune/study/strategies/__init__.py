"""Strategies: who proposes plans. Each is an Optuna sampler, its file, and a line of this table."""

from __future__ import annotations

from inspect import signature
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from autotune.errors import ConfigError, unknown
from autotune.utils.registry import Registry

STRATEGIES = Registry(
    "strategy",
    {
        "policy": "autotune.study.strategies.policy:policy",
        "proxy": "autotune.study.strategies.proxy:proxy",
        "greedy": "autotune.study.strategies.greedy:greedy",
        "tpe": "autotune.study.strategies.tpe:tpe",
        "gp": "autotune.study.strategies.gp:gp",
        "nsga2": "autotune.study.strategies.nsga2:nsga2",
        "qmc": "autotune.study.strategies.qmc:qmc",
        "random": "autotune.study.strategies.random:random",
        "profile": "autotune.study.strategies.profile:profile",
        "bruteforce": "autotune.study.strategies.bruteforce:bruteforce",
    },
)

_GIVEN = ("problem", "grids", "seed", "workers", "scores")


def check_options(strategy: str, options: dict[str, Any]) -> dict[str, Any]:
    """A strategy's own options with the types that it declares; `ConfigError` for others."""
    make = STRATEGIES.load(strategy)
    declared = [name for name in signature(make).parameters if name not in _GIVEN]
    types, checked = get_type_hints(make), {}
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
