"""Deltas: methods that change a unit. Each is a file, a line of this table and a contract test."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autotune.utils.lazy_names import lazy_names
from autotune.utils.registry import Registry

if TYPE_CHECKING:
    from autotune.deltas.base import Delta as Delta
    from autotune.deltas.base import cost_of as cost_of
    from autotune.deltas.base import cost_of_module as cost_of_module
    from autotune.deltas.parametrized import WeightDelta as WeightDelta
    from autotune.deltas.paths import PathDelta as PathDelta
    from autotune.deltas.site import Site as Site
    from autotune.deltas.site import Slot as Slot

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
"""Methods in the order in which they attach to a unit and appear in its label.

Those of other packages follow the built-in ones.
"""

_HOMES = {
    "Delta": "base",
    "PathDelta": "paths",
    "Site": "site",
    "Slot": "site",
    "WeightDelta": "parametrized",
    "cost_of": "base",
    "cost_of_module": "base",
}

__all__ = ["METHODS", *sorted(_HOMES)]
__getattr__ = lazy_names(__name__, _HOMES)
