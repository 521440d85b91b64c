"""Deltas: ways of changing a unit. A method is its file, a line of this table, a contract test."""

from __future__ import annotations

from autotune.registry import Registry

METHODS = Registry(
    "delta",
    {
        "subtune": "autotune.deltas.subtune:Subtune",
        "scale": "autotune.deltas.scale:Scale",
        "lowrank": "autotune.deltas.lowrank:LowRank",
    },
)
"""In the order in which methods of one unit attach and stand in its label."""
