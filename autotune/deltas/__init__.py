"""Deltas: ways of changing a unit. A method is its file, a line of this table, a contract test."""

from __future__ import annotations

from autotune.registry import Registry

METHODS = Registry(
    "delta",
    {
        "subtune": "autotune.deltas.subtune:Subtune",
        "reparam": "autotune.deltas.reparam:Reparam",
        "scale": "autotune.deltas.scale:Scale",
        "lowrank": "autotune.deltas.lowrank:LowRank",
        "xs": "autotune.deltas.xs:XS",
        "sparse": "autotune.deltas.sparse:Sparse",
        "res_prefix": "autotune.deltas.res_prefix:ResPrefix",
        "res_prompt": "autotune.deltas.res_prefix:ResPrompt",
        "res_adapter": "autotune.deltas.res_adapter:ResAdapter",
        "skip": "autotune.deltas.skip:Skip",
        "side": "autotune.deltas.side:Side",
        "bypass": "autotune.deltas.bypass:Bypass",
    },
    group="autotune.deltas",
    base="autotune.deltas.base:Delta",
)
"""In the order in which methods of one unit attach and stand in its label; then other packages'."""
