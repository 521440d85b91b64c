"""Python interface: start a search in one call, prepare one, and resume one."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from autotune.backbones.base import Backbone
from autotune.backbones.heads.factory import HeadFactory
from autotune.errors import ConfigError, RunError
from autotune.problem.budget import largest_first
from autotune.run.known_runs import allowed, remember_run
from autotune.run.notebook import Study
from autotune.run.origins import CALL, RESUME, changed_settings
from autotune.run.settings import OBJECT, Settings, read_settings
from autotune.session.beginning import create_study
from autotune.session.driving import ending_in_order
from autotune.session.session import begin_search, drive
from autotune.session.setup import Setup, prepare_search, released
from autotune.session.workers import WHERE
from autotune.study.driver import has_study, require_free
from autotune.study.run_folder import RunFolder
from autotune.study.strategies import load_strategy
from autotune.study.strategies.score_source import ScoreSource
from autotune.utils import timings
from autotune.utils.events import Callback, listening


def search(
    backbone: str | nn.Module | Backbone = "builtin:digits",
    task: Any = "builtin:digits",
    budget: str = "1%",
    *,
    callbacks: Sequence[Callback] = (),
    origins: Mapping[str, str] | None = None,
    **settings: Any,
) -> Study:
    """Find which units to change, and how, within the budget; returns the finished study.

    `backbone` is a source or any `nn.Module` that returns logits (n, classes); `task` is a
    source, a data set, or (train, test) or (train, val, test) of them. Other settings are those
    of `autotune search`: `strategy`, `trials`, `epochs`, `seed`, `out`, … The module is left
    unchanged. `callbacks` are called with each `Event`. `origins` maps settings to the places they
    were given in, for `autotune config`; default: this call. Raises a subclass of `AutotuneError`
    for each kind of wrong input.
    """
    values = {"backbone": _name(backbone), "task": _name(task), "budget": budget, **settings}
    resolved = read_settings(values)
    began, folder = time.time(), RunFolder.new(resolved.out, resolved.task)
    timings.reset()
    require_free(folder, resolved.storage)
    with listening(callbacks), released(prepare_search(resolved, backbone, task)) as setup:
        resolved = resolved.model_copy(update={"out": str(folder.path)})
        known = dict.fromkeys(values, CALL) if origins is None else origins
        begin_search(folder, replace(setup, settings=resolved), began, known)
    return Study(folder.path)


def prepare(
    backbone: str | nn.Module | Backbone = "builtin:digits",
    task: Any = "builtin:digits",
    budget: str = "1%",
    **settings: Any,
) -> Setup:
    """Resolve everything that `search` starts from, for a study of your own; write nothing.

    `backbone`, `task`, `budget` and the other settings are those of `search`. The setup has the
    `problem` (units, choices, costs, budget), the `grids` of hyperparameters, and the `engine`
    that trains a job and reports its progress; `engine.close()` restores the network. Raises a
    subclass of `AutotuneError` for each kind of wrong input.
    """
    sources = {"backbone": _name(backbone), "task": _name(task), "budget": budget}
    return prepare_search(read_settings({**sources, **settings}), backbone, task)


def search_budgets(
    budgets: Sequence[str],
    backbone: str | nn.Module | Backbone = "builtin:digits",
    task: Any = "builtin:digits",
    *,
    callbacks: Sequence[Callback] = (),
    origins: Mapping[str, str] | None = None,
    **settings: Any,
) -> dict[str, Study]:
    """Run one search for each budget, the largest first, and return the study of each.

    `backbone`, `task`, `callbacks`, `origins` and the settings are those of `search`. The run
    folders are in `out` and are named by their budgets. With the strategy `policy`, all searches
    use one supernet: that of the run `supernet` if given, else that of the first search.

    Raises `ConfigError` for several budgets with a `storage`.
    """
    first, *rest = largest_first(budgets)
    shared = read_settings({**settings, "task": _name(task), "budget": first})
    if rest and shared.storage is not None:
        raise ConfigError(
            f"A storage holds one study, got --storage {shared.storage} with {1 + len(rest)} "
            "budgets. Leave it out, or search each budget with a storage of its own."
        )
    folder = RunFolder.new(shared.out, shared.task).path
    learns = load_strategy(shared.strategy).score_source is ScoreSource.POLICY
    studies: dict[str, Study] = {}
    for budget in (first, *rest):
        if studies and learns and shared.supernet is None:
            settings["supernet"] = str(folder / first)
        chosen = {**settings, "out": str(folder / budget), "budget": budget}
        studies[budget] = search(backbone, task, callbacks=callbacks, origins=origins, **chosen)
    return studies


def resume(
    run: str | Path,
    backbone: str | nn.Module | Backbone | None = None,
    task: Any = None,
    *,
    head_factory: str | HeadFactory | None = None,
    storage: str | None = None,
    callbacks: Sequence[Callback] = (),
    **changes: Any,
) -> Study:
    """Resume an interrupted search, or add more `trials` (the total); returns the study.

    A run that began from objects needs the same `backbone` and `task` again, and one with a
    `head_factory` needs that. Allowed changes are `trials`, `timeout`, `disk`, and where it runs:
    `backend`, `workers`, `device`, `cpus_per_trial`, `gpus_per_trial`, `address`, `ship_data`,
    `retries`. `callbacks` are called with each `Event`. `storage` is needed for a run whose study
    is not in its folder and that was not begun here, and so is its `address`. Raises
    `ConfigError` for another change, `RunError` if the data or the network differ.
    """
    began, study = time.time(), Study(run, storage=storage)
    study.folder.require_writable()
    timings.reset()
    if fixed := sorted(set(changes) - {"trials", "timeout", "disk", *WHERE}):
        raise ConfigError(
            "A resumed run may change how many trials there are and where they run, not "
            f"{fixed[0]!r}. Start a new search for that."
        )
    has_begun = not study.folder.is_bare() or has_study(study.folder, study.storage)
    total = changes.get("trials")
    # trials of a profile do not count
    begun = sum(not trial.origin for trial in study.trials) if has_begun else 0
    if total is not None and total < begun:
        raise ConfigError(f"--trials is the total: {begun} were begun, got {total}. Give more.")
    with (
        listening(callbacks),
        released(reopened(study, backbone, task, head_factory=head_factory, **changes)) as setup,
    ):
        changed = changed_settings(study.settings, setup.settings)
        remember_run(study.folder, setup.settings)
        with ending_in_order(study.folder, setup, command="resume"):
            if not has_begun:  # it was killed before its study was created
                create_study(study.folder, setup, may_exist=True)
            drive(study.folder, setup, began, dict.fromkeys(changed, RESUME))
    return Study(study.folder.path, storage=storage)


def reopened(
    study: Study, backbone: Any = None, task: Any = None, head_factory: Any = None, **changes: Any
) -> Setup:
    """Prepare a run again; `RunError` if it began from objects and they are not given.

    Raises `RunError` for a storage or an address that only the run folder names.
    """
    before = study.settings.model_copy(update={"storage": study.storage})
    backbone = named(study, "backbone", backbone)
    task = named(study, "task", task)
    changes["head_factory"] = named(study, "head_factory", head_factory)
    changed = {name: value for name, value in changes.items() if value is not None}
    settings = read_settings({**_kept(before, changed), **changed})
    allowed(study.folder, settings, "address", changed.get("address"))
    return prepare_search(settings, backbone, task)


def named(study: Study, kind: str, replacement: Any = None) -> Any:
    """The `backbone`, `task` or `head_factory` of a run; `RunError` if it must be given and is not.

    A run folder may come from others, so the user's code in it runs only if it is given here.
    """
    source: str | None = getattr(study.settings, kind)
    if replacement is not None:
        return replacement
    if source == OBJECT:
        raise RunError(
            f"{study.folder.path} began from Python objects, so its {kind} is not known here. "
            f"Give it from Python, as in autotune.resume(run, {kind}=...)."
        )
    if (kind == "head_factory" and source is not None) or str(source).startswith("python:"):
        option = kind.replace("_", "-")
        raise RunError(
            f"The {kind.replace('_', ' ')} of {study.folder.path} is code ({source}), which runs "
            f"only when it is named: add --{option} {shlex.quote(str(source))}"
        )
    return source


def _kept(before: Settings, changed: Mapping[str, Any]) -> dict[str, Any]:
    """Settings to resume with; on another backend, without those of the previous one."""
    kept = before.model_dump()
    if changed.get("backend", before.backend) == before.backend:
        return kept
    return {name: value for name, value in kept.items() if name not in WHERE - {"device"}}


def _name(source: Any) -> str:
    return source if isinstance(source, str) else OBJECT
