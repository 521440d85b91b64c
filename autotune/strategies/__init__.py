"""Strategies: who proposes plans. Each is an Optuna sampler, its file, and a line of this table."""

from __future__ import annotations

from inspect import signature
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from autotune.errors import ConfigError, unknown
from autotune.registry import Registry

STRATEGIES = Registry(
    "strategy",
    {
        "policy": "autotune.strategies.policy:policy",
        "proxy": "autotune.strategies.proxy:proxy",
        "greedy": "autotune.strategies.greedy:greedy",
        "tpe": "autotune.strategies.tpe:tpe",
        "gp": "autotune.strategies.gp:gp",
        "nsga2": "autotune.strategies.nsga2:nsga2",
        "qmc": "autotune.strategies.qmc:qmc",
        "random": "autotune.strategies.random:random",
        "profile": "autotune.strategies.profile:profile",
        "bruteforce": "autotune.strategies.bruteforce:bruteforce",
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
