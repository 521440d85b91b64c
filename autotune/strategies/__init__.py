"""Strategies: who proposes plans. Each is an Optuna sampler, its file, and a line of this table."""

from __future__ import annotations

from autotune.registry import Registry

_LATER = "Use tpe or random."

STRATEGIES = Registry(
    "strategy",
    {
        "policy": "autotune.strategies.policy:policy",
        "tpe": "autotune.strategies.tpe:tpe",
        "random": "autotune.strategies.random:random",
    },
    reserved=dict.fromkeys(("greedy", "proxy", "gp", "nsga2", "qmc", "bruteforce"), _LATER),
)
