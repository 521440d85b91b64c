"""autotune: finds which layers of a pretrained network to change, and how, under a budget."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autotune.backbones import load_backbone as load_backbone
    from autotune.backbones.inputs import InputDescription as InputDescription
    from autotune.deltas.base import Delta as Delta
    from autotune.deltas.loading import adapted as adapted
    from autotune.deltas.loading import detach as detach
    from autotune.deltas.loading import load_adapted as load_adapted
    from autotune.deltas.loading import merge as merge
    from autotune.deltas.loading import switch as switch
    from autotune.deltas.parametrized import WeightDelta as WeightDelta
    from autotune.deltas.paths import PathDelta as PathDelta
    from autotune.deltas.site import Site as Site
    from autotune.deltas.site import Slot as Slot
    from autotune.deploy.export.writing import export_model as export_model
    from autotune.deploy.multitask.model import MultiTask as MultiTask
    from autotune.errors import AutotuneError as AutotuneError
    from autotune.problem.budget import Budget as Budget
    from autotune.problem.budget import Cost as Cost
    from autotune.problem.plan import Choice as Choice
    from autotune.problem.plan import Plan as Plan
    from autotune.problem.problem import Problem as Problem
    from autotune.run.notebook import Preview as Preview
    from autotune.run.notebook import Study as Study
    from autotune.run.results import Best as Best
    from autotune.session.api import prepare as prepare
    from autotune.session.api import resume as resume
    from autotune.session.api import search as search
    from autotune.session.api import search_budgets as search_budgets
    from autotune.session.compare import Comparison as Comparison
    from autotune.session.compare import compare as compare
    from autotune.session.preview import preview as preview
    from autotune.tasks import load_task as load_task
    from autotune.utils.events import Event as Event

__version__ = "0.1.0"

_HOME = {
    "AutotuneError": "errors",
    "Best": "run.results",
    "Budget": "problem.budget",
    "Choice": "problem.plan",
    "Comparison": "session.compare",
    "Cost": "problem.budget",
    "Delta": "deltas.base",
    "Event": "utils.events",
    "InputDescription": "backbones.inputs",
    "MultiTask": "deploy.multitask.model",
    "WeightDelta": "deltas.parametrized",
    "PathDelta": "deltas.paths",
    "Plan": "problem.plan",
    "Preview": "run.notebook",
    "Problem": "problem.problem",
    "Site": "deltas.site",
    "Slot": "deltas.site",
    "Study": "run.notebook",
    "adapted": "deltas.loading",
    "compare": "session.compare",
    "detach": "deltas.loading",
    "export_model": "deploy.export.writing",
    "load_adapted": "deltas.loading",
    "load_backbone": "backbones",
    "load_task": "tasks",
    "merge": "deltas.loading",
    "preview": "session.preview",
    "prepare": "session.api",
    "resume": "session.api",
    "search": "session.api",
    "search_budgets": "session.api",
    "switch": "deltas.loading",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """Names of the facade, imported when they are first asked for."""
    if name not in _HOME:
        raise AttributeError(f"module 'autotune' has no attribute {name!r}")
    return getattr(import_module(f"autotune.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
