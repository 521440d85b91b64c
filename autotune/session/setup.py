"""A search before its first trial: everything is read, resolved and refused here."""

from __future__ import annotations

import platform
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from autotune.backbones import load_backbone
from autotune.backbones.base import Backbone, describe, new_head
from autotune.backbones.dataflow import trace
from autotune.backbones.eval_mode import evaluating
from autotune.backbones.inputs import InputDescription
from autotune.backbones.spans import with_spans
from autotune.backbones.units import Units, find_units
from autotune.deltas.candidates import find_candidates, method_facts
from autotune.deltas.surgery import exchanged
from autotune.errors import BackboneError, ConfigError, TaskError, first_line
from autotune.problem.budget import Budget, Cost
from autotune.problem.grids import Grids
from autotune.problem.problem import Candidates, Problem, require_room
from autotune.problem.search_space import SearchSpace
from autotune.run.settings import OBJECT, Settings, load_input, load_space
from autotune.study.pareto import measured_by
from autotune.study.policy.network import read_policy
from autotune.study.pruners import PRUNERS
from autotune.study.strategies import STRATEGIES, check_options, load_strategy
from autotune.study.strategies.score_source import ScoreSource
from autotune.tasks import load_task
from autotune.tasks.base import Task
from autotune.tasks.loading import batches, check_fits, infer_input
from autotune.tasks.python import as_task
from autotune.training.batchnorm import statistics_cost
from autotune.training.engine import Engine
from autotune.training.loop import Recipe
from autotune.training.prefix.prefix import Keeping
from autotune.utils.distribution import installed_versions
from autotune.utils.events import warn
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
    """The head is charged where it counts; prepared buffers are not known yet."""

    grids: Grids


@spent("data")
def prepare_search(settings: Settings, backbone: Any, task: Any) -> Setup:
    """Everything that can be refused is refused here, before a run folder is made."""
    STRATEGIES.check(settings.strategy)
    _check_pruner(settings)
    _check_policy(settings)
    device = choose_device(settings.device)
    loaded = find_backbone(settings, backbone)
    whole_task = _find_task(task, loaded)
    data = (whole_task.carried() if settings.ship_data else whole_task).split(settings.seed)
    source_input = infer_input(data.train, loaded.input)
    for part in (data.train, data.val, data.test):
        assert part is not None
        check_fits(part, source_input, data.source)
    _try_forward(loaded, data, source_input)
    space, units = find_choices(settings, loaded, source_input)
    names = {"epochs", "batch_size", "augment", "metric", "precision", "layout", "fuse_batchnorm"}
    recipe = Recipe(**settings.model_dump(include=names), device=device)
    if settings.augment != "none" and (source_input is None or not source_input.is_picture):
        raise ConfigError(f"--augment {settings.augment} needs pictures, {data.source} has none.")
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


def _check_policy(settings: Settings) -> None:
    source = load_strategy(settings.strategy).score_source
    for name, file in (("policy", settings.policy), ("supernet", settings.supernet)):
        if file is not None and source is not ScoreSource.POLICY:
            raise ConfigError(
                f"--{name} is for strategies that learn a policy, {settings.strategy} learns "
                "none. Leave one of them out."
            )
    if settings.policy is not None:
        read_policy(settings.policy)


def _check_pruner(settings: Settings) -> None:
    PRUNERS.check(settings.pruner)
    if settings.pruner == "wilcoxon" and not settings.folds:
        raise ConfigError("--pruner wilcoxon compares folds, there are none. Give --folds 5.")
    if settings.objective and settings.pruner in ("median", "wilcoxon"):
        raise ConfigError(
            f"--pruner {settings.pruner} knows no cost, so it would end what {settings.objective} "
            "is to keep. Use forecast, halving, hyperband, race or none."
        )


def make_problem(
    settings: Settings, backbone: Backbone, units: Units, space: SearchSpace, n_classes: int
) -> tuple[Candidates, Problem]:
    """The candidates of a search and its problem, the head charged.

    Sizes that follow from the budget leave room for re-estimated statistics where these may be
    charged later. Raises `BudgetError` when nothing fits the budget.
    """
    budget, fixed = parse_budget(settings, backbone), head_cost(settings, backbone, n_classes)
    statistics = Cost() if settings.bnstats == "off" else statistics_cost(backbone.network)
    candidates = candidates_within(backbone, units, space, budget, fixed + statistics)
    problem = Problem.of(candidates, budget, fixed=fixed + statistics)
    if settings.bnstats == "auto" and problem.is_empty():
        candidates = candidates_within(backbone, units, space, budget, fixed)
        problem = Problem.of(candidates, budget, fixed=fixed)
    require_room(problem, candidates)
    facts = method_facts(candidates)
    return candidates, Problem.of(candidates, budget, fixed=fixed, methods=facts)


def _grids(space: SearchSpace, candidates: Candidates) -> Grids:
    """Hyperparameter → values, for the head and for every method that has a place."""
    lr = space.hyperparameters.lr
    methods = {name for choices in candidates.values() for c in choices for name in c.names}
    rates = {f"lr:{m}": tuple(lr[m]) for m in ("head", *sorted(methods))}
    return {**rates, "weight_decay": tuple(space.hyperparameters.weight_decay)}


def find_backbone(settings: Settings, backbone: Any, *, shapes_only: bool = False) -> Backbone:
    """The backbone of a source or object, with its input description."""
    described = load_input(settings.input)
    if isinstance(backbone, Backbone):
        return backbone
    if isinstance(backbone, nn.Module):
        return describe(backbone, source=OBJECT, family="any", head=settings.head, input=described)
    return load_backbone(
        backbone,
        weights=settings.weights,
        head=settings.head,
        input=described,
        shapes_only=shapes_only,
    )


def find_choices(
    settings: Settings, backbone: Backbone, input: InputDescription | None
) -> tuple[SearchSpace, Units]:
    """The search space, and the units and spans that it cuts; no spans for an unknown input."""
    space = load_space(settings.space or backbone.family)
    patterns = getattr(space.units, settings.granularity)
    units = find_units(backbone, patterns, granularity=settings.granularity)
    if input is None:
        return space, units
    try:
        flow = trace(backbone.network, input)
    except (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError) as error:
        first = first_line(error)
        warn(f"What flows through the network is not known, so no path is offered: {first}")
        return space, units
    return space, with_spans(backbone, units, space.units, flow)


def candidates_within(
    backbone: Backbone, units: Units, space: SearchSpace, budget: Budget, fixed: Cost
) -> Candidates:
    """What each unit and span may take, at which cost; sizes that follow from the budget fitted."""
    room = max(budget.limit - fixed[budget.measure], 0)
    return find_candidates(backbone.network, units, space, room=room, measure=budget.measure)


def parse_budget(settings: Settings, backbone: Backbone) -> Budget:
    """The budget in numbers: 100 % are the backbone's parameters, its old head not counted."""
    parameters = backbone.parameters().values()
    n = sum(p.numel() for p in parameters)
    total = Cost(n, n, sum(p.numel() * p.element_size() for p in parameters))
    return Budget.parse(settings.budget, total)


def head_cost(settings: Settings, backbone: Backbone, classes: int) -> Cost:
    """Cost of the task's head where it is counted, else nothing."""
    if not settings.count_head:
        return Cost()
    head = backbone.network.get_submodule(backbone.head)
    n = sum(p.numel() // len(p) * classes for p in head.parameters())
    return Cost(n, n, n * next(head.parameters()).element_size())


def choose_device(name: str) -> str:
    """`auto` is the first GPU where there is one; `ConfigError` for a device that is not there."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        first = first_line(error)
        raise ConfigError(f"A device must be there, {name!r} is not ({first}). Use cpu.") from error
    return name


@contextmanager
def released(setup: Setup) -> Iterator[Setup]:
    """The setup, its network given back as it was afterwards."""
    try:
        yield setup
    finally:
        setup.engine.close()


def _try_forward(backbone: Backbone, task: Task, input: InputDescription | None) -> None:
    """One small batch through the network, so that what cannot run is said before anything runs.

    Once with the network's own head, once with one for the task's classes.
    """
    small = task.train.take(np.arange(min(2, len(task.train))))
    device = next(backbone.network.parameters()).device
    inputs, _ = next(batches(small, 2, input=input, device=device))
    with evaluating(backbone.network) as network:
        logits = _tried(network, inputs)
        if not isinstance(logits, torch.Tensor) or logits.ndim != 2:
            got = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
            raise BackboneError(
                f"A backbone must return logits (n, classes), this one gives {got}."
            )
        _try_head(backbone, len(task.classes), inputs)


def _tried(network: nn.Module, inputs: torch.Tensor) -> Any:
    try:
        return network(inputs)
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        first = first_line(error)
        raise TaskError(
            f"The backbone must take the task's examples, {tuple(inputs.shape[1:])} "
            f"{str(inputs.dtype).removeprefix('torch.')} each; it raised: {first}. "
            "Change the examples, or describe the input with --input FILE."
        ) from error


def _try_head(backbone: Backbone, n: int, inputs: torch.Tensor) -> None:
    network, path = backbone.network, backbone.head
    head = new_head(network.get_submodule(path), n)
    try:
        with exchanged(network, path, head):
            got = tuple(network(inputs).shape)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        got = (first_line(error),)
    if got != (len(inputs), n):
        raise BackboneError(
            f"With a head for {n} classes in the place of {path!r} the backbone must give "
            f"({len(inputs)}, {n}), got {got}. Name the last layer with --head."
        )


def _find_task(task: Any, backbone: Backbone) -> Task:
    if isinstance(task, str):
        return load_task(task, backbone.input)
    return as_task(task, OBJECT, backbone.input)


def _about(settings: Settings, task: Task) -> dict[str, Any]:
    return {
        "versions": installed_versions("autotune", "torch", "torchvision", "optuna"),
        "python": platform.python_version(),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        **settings.model_dump(include={"backbone", "weights", "budget", "space", "granularity"}),
        "data": task.digest(),
    }
