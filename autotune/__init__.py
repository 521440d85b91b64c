"""autotune: finds which layers of a pretrained network to change, and how, under a budget."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autotune.api import resume as resume
    from autotune.api import search as search
    from autotune.api import search_budgets as search_budgets
    from autotune.backbones import load_backbone as load_backbone
    from autotune.backbones.inputs import InputDescription as InputDescription
    from autotune.budget import Budget as Budget
    from autotune.budget import Cost as Cost
    from autotune.comparison import Comparison as Comparison
    from autotune.comparison import compare as compare
    from autotune.deltas.base import Delta as Delta
    from autotune.deltas.base import Parametrized as Parametrized
    from autotune.deltas.base import Path as Path
    from autotune.deltas.site import Site as Site
    from autotune.deltas.site import Slot as Slot
    from autotune.errors import AutotuneError as AutotuneError
    from autotune.events import Event as Event
    from autotune.export.exporting import export_model as export_model
    from autotune.mount import adapted as adapted
    from autotune.mount import detach as detach
    from autotune.mount import load_adapted as load_adapted
    from autotune.mount import merge as merge
    from autotune.mount import switch as switch
    from autotune.multitask.multitask import MultiTask as MultiTask
    from autotune.notebook import Study as Study
    from autotune.plan import Choice as Choice
    from autotune.plan import Plan as Plan
    from autotune.problem import Problem as Problem
    from autotune.runs import Best as Best
    from autotune.tasks import load_task as load_task

__version__ = "0.1.0"

_HOME = {
    "AutotuneError": "errors",
    "Best": "runs",
    "Budget": "budget",
    "Choice": "plan",
    "Comparison": "comparison",
    "Cost": "budget",
    "Delta": "deltas.base",
    "Event": "events",
    "InputDescription": "backbones.inputs",
    "MultiTask": "multitask.multitask",
    "Parametrized": "deltas.base",
    "Path": "deltas.base",
    "Plan": "plan",
    "Problem": "problem",
    "Site": "deltas.site",
    "Slot": "deltas.site",
    "Study": "notebook",
    "adapted": "mount",
    "compare": "comparison",
    "detach": "mount",
    "export_model": "export.exporting",
    "load_adapted": "mount",
    "load_backbone": "backbones",
    "load_task": "tasks",
    "merge": "mount",
    "resume": "api",
    "search": "api",
    "search_budgets": "api",
    "switch": "mount",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """Names of the facade, imported when they are first asked for."""
    if name not in _HOME:
        raise AttributeError(f"module 'autotune' has no attribute {name!r}")
    return getattr(import_module(f"autotune.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
