"""Deltas: ways of changing a unit. A method is its file, a line of this table, a contract test."""

from __future__ import annotations

from autotune.utils.registry import Registry

METHODS = Registry(
    "delta",
    {
        "subtune": "autotune.deltas.methods.subtune:Subtune",
        "reparam": "autotune.deltas.methods.reparam:Reparam",
        "scale": "autotune.deltas.methods.scale:Scale",
        "lowrank": "autotune.deltas.methods.lowrank:LowRank",
        "xs": "autotune.deltas.methods.xs:XS",
        "sparse": "autotune.deltas.methods.sparse:Sparse",
        "res_prefix": "autotune.deltas.methods.res_prefix:ResPrefix",
        "res_prompt": "autotune.deltas.methods.res_prefix:ResPrompt",
        "res_adapter": "autotune.deltas.methods.res_adapter:ResAdapter",
        "skip": "autotune.deltas.methods.skip:Skip",
        "side": "autotune.deltas.methods.side:Side",
        "bypass": "autotune.deltas.methods.bypass:Bypass",
    },
    group="autotune.deltas",
    base="autotune.deltas.base:Delta",
)
"""In the order in which methods of one unit attach and stand in its label; then other packages'."""
