"""Setup of a search: read and resolve everything, and refuse wrong input."""

from __future__ import annotations

import platform
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.backbones.base import Backbone
from autotune.backbones.precision import matched
from autotune.backbones.units import Units
from autotune.errors import ConfigError
from autotune.problem.grids import Grids
from autotune.problem.problem import Candidates, Problem
from autotune.problem.search_space import SearchSpace
from autotune.run.settings import Settings
from autotune.session.checks import (
    check_policy,
    check_pruner,
    require_one_gpu,
    require_statistics,
    require_unwritten,
    try_forward,
)
from autotune.session.costing import make_problem
from autotune.session.sources import (
    choose_device,
    find_backbone,
    find_choices,
    find_space,
    find_task,
    leave_out,
    settle_head,
    some_examples,
)
from autotune.study.pareto import measured_by
from autotune.study.strategies import STRATEGIES, check_options, load_strategy
from autotune.tasks.base import Task
from autotune.tasks.loading import check_fits, infer_input
from autotune.training.engine import Engine
from autotune.training.loop import Recipe
from autotune.training.prefix.prefix import Keeping
from autotune.utils.distribution import installed_versions
from autotune.utils.timings import spent


@dataclass(frozen=True)
class Setup:
    """A search before its first trial: everything resolved, nothing written."""

    settings: Settings
    backbone: Backbone
    task: Task
    space: SearchSpace
    units: Units
    engine: Engine
    candidates: Candidates
    problem: Problem
    """Problem with the head charged if it counts; prepared buffers are not known yet."""

    grids: Grids


@spent("data")
def prepare_search(settings: Settings, backbone: Any, task: Any) -> Setup:
    """Resolve the settings, and refuse wrong input before a run folder is created.

    Raises a subclass of `AutotuneError` for each kind of wrong input.
    """
    STRATEGIES.check(settings.strategy)
    check_pruner(settings)
    check_policy(settings)
    require_one_gpu(settings)
    device = choose_device(settings.device)
    loaded = find_backbone(settings, backbone)
    whole_task = find_task(settings, task, loaded)
    data = (whole_task.carried() if settings.ship_data else whole_task).split(settings.seed)
    assert data.train is not None
    source_input = matched(infer_input(data.train, data.input or loaded.input), loaded.network)
    for part in (data.train, data.val, data.test):
        assert part is not None
        check_fits(part, source_input, data.source)
    examples = some_examples(loaded, data.train, source_input)
    require_unwritten(loaded.network, examples[0])
    require_statistics(settings, loaded.network)
    if not isinstance(backbone, Backbone):
        loaded = settle_head(settings, loaded, examples)
    try_forward(loaded, examples[0], len(data.classes))
    loaded = leave_out(settings, loaded, find_space(settings, loaded), examples)
    space, units = find_choices(settings, loaded, source_input)
    names = {"epochs", "batch_size", "augment", "metric", "precision", "layout", "fuse_batchnorm"}
    recipe = Recipe(**settings.model_dump(include=names), device=device)
    if settings.augment != "none" and (source_input is None or not source_input.is_image):
        raise ConfigError(f"--augment {settings.augment} needs images, {data.source} has none.")
    engine = Engine(
        loaded,
        units,
        data,
        recipe,
        input=source_input,
        folds=settings.folds,
        seed=settings.seed,
        keep_head=settings.keep_head,
        measured=measured_by(settings.objective or ""),
        keeping=_keeping(settings),
        about=_about(settings, data),
    )
    try:
        candidates, problem = make_problem(settings, loaded, units, space, len(data.classes))
        grids = _grids(space, candidates)
        options = check_options(settings.strategy, settings.options)
        load_strategy(settings.strategy)(problem, grids, seed=settings.seed, **options).check()
    except BaseException:
        engine.close()
        raise
    return Setup(settings, loaded, data, space, units, engine, candidates, problem, grids)


def _keeping(settings: Settings) -> Keeping:
    memory, disk = settings.cache_bytes
    return Keeping(
        memory,
        disk,
        dtype=settings.cache_dtype,
        views=settings.views,
        is_shared=settings.where != "inline" and settings.workers != 1,
    )


def _grids(space: SearchSpace, candidates: Candidates) -> Grids:
    """Hyperparameter → values, for the head and for every method that has a place."""
    lr = space.hyperparameters.lr
    methods = {name for choices in candidates.values() for c in choices for name in c.names}
    rates = {f"lr:{m}": tuple(lr[m]) for m in ("head", *sorted(methods))}
    return {**rates, "weight_decay": tuple(space.hyperparameters.weight_decay)}


@contextmanager
def released(setup: Setup) -> Iterator[Setup]:
    """Context with the setup, whose network is restored on exit."""
    try:
        yield setup
    finally:
        setup.engine.close()


def _about(settings: Settings, task: Task) -> dict[str, Any]:
    return {
        "versions": installed_versions("autotune", "torch", "torchvision", "optuna"),
        "python": platform.python_version(),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        **settings.model_dump(include={"backbone", "weights", "budget", "space", "granularity"}),
        **(settings.model_dump(include={"head_factory"}) if settings.head_factory else {}),
        "data": task.digest(),
    }
