"""From Python: a search in one call. This is where the two wings are joined."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from autotune.artifact import from_bytes, to_bytes
from autotune.backbones import load_backbone
from autotune.backbones.base import Backbone, describe
from autotune.backbones.units import Units, find_units
from autotune.backends.base import Backend
from autotune.backends.inline import InlineBackend
from autotune.backends.processes import ProcessBackend
from autotune.budget import Budget, Cost
from autotune.candidates import find_candidates
from autotune.config import Settings, load_input, load_space, read_settings, write_settings
from autotune.data import batches, check_fits, infer_input
from autotune.engine import Engine
from autotune.errors import (
    BackboneError,
    ConfigError,
    Interrupted,
    RunError,
    TaskError,
)
from autotune.events import log, tell
from autotune.files import write_whole
from autotune.finalists import run_finalists
from autotune.lease import Lease, holder
from autotune.plan import Plan
from autotune.preparation import has_statistics
from autotune.problem import Candidates, Problem, require_room
from autotune.profiling import Estimate, estimate
from autotune.records import TrialRecord
from autotune.references import PROBE, run_reference, run_references, three_rates
from autotune.run import EventLog, RunFolder
from autotune.source import import_sources
from autotune.space import SearchSpace
from autotune.strategies import STRATEGIES
from autotune.strategies.base import Grids
from autotune.study import Driver, Records, Setting, create
from autotune.tasks import load_task
from autotune.tasks.base import Task
from autotune.tasks.python import as_task
from autotune.training import Recipe


@dataclass(frozen=True)
class Best:
    """The answer of a search."""

    plan: Plan
    value: float
    """On validation, of the run with the study's seed."""

    artifact: Path
    """`best/delta.safetensors`."""

    number: int | None
    """The trial it came from; None for the empty plan."""

    test: Mapping[str, float]
    """Metrics on the test part, looked at once."""

    cost: Cost


class Study:
    """A search that ran, is running, or was interrupted: its answer, trials and references."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = RunFolder.existing(folder)
        self.settings = read_settings({}, file=str(self.folder.config))
        self._records = Records(self.folder, self.settings.storage)

    @property
    def problem(self) -> Problem:
        return self._records.problem

    @property
    def trials(self) -> list[TrialRecord]:
        """All trials in the order of their numbers."""
        return self._records.trials

    @property
    def identity(self) -> dict[str, Any]:
        """What the search began with and may not change: fingerprint, data, settings."""
        found: dict[str, Any] = self._records.attribute("identity")
        return found

    @property
    def references(self) -> dict[str, Any]:
        """Name → `value`, `test`, `cost` and more of every reference that has run."""
        return self._records.attributes("reference")

    @property
    def final(self) -> dict[str, Any] | None:
        """The record of the end: the winner, its seeds and its test; None before it."""
        final: dict[str, Any] | None = self._records.attribute("stage:final")
        return final

    @property
    def preparation(self) -> dict[str, Any] | None:
        """Whether normalisation statistics were re-estimated, and both probes' values."""
        found: dict[str, Any] | None = self._records.attribute("stage:preparation")
        return found

    @cached_property
    def best(self) -> Best:
        """The answer; `RunError` while the search has not ended."""
        final = self.final
        if final is None:
            raise RunError(
                f"A search has an answer when it has ended, {self.folder.path} is {self.state}. "
                f"Go on with: autotune resume {self.folder.path}"
            )
        return Best(
            plan=Plan.from_json(final["plan"]),
            value=final["value"],
            artifact=self.folder.best,
            number=final["number"],
            test=final["test"],
            cost=Cost(**final["cost"]),
        )

    @property
    def state(self) -> str:
        """`complete`, `running` or `interrupted`."""
        if self.final is not None:
            return "complete"
        alive = holder(self.folder.lease, self._records.attribute("lease"))
        return "running" if alive else "interrupted"

    @property
    def seconds(self) -> float:
        """Wall-clock seconds of all sittings so far."""
        return float(sum(self._records.attributes("sitting").values()))

    @property
    def full_finetuning(self) -> float | None:
        """Estimated seconds of one full fine-tuning on the machine of the first sitting."""
        found = self._records.attribute("stage:estimate")
        return found["full"] if found else None

    def status(self) -> dict[str, Any]:
        """Everything that `autotune status --json` prints."""
        return _status(self)


@dataclass(frozen=True)
class Setup:
    """A search before its first trial: everything resolved, nothing written."""

    settings: Settings
    backbone: Backbone
    task: Task
    space: SearchSpace
    units: Units
    candidates: Candidates
    engine: Engine
    grids: Grids

    def problem(self, fixed: Cost = Cost()) -> Problem:
        """The problem once what is charged whatever the plan is known."""
        budget = parse_budget(self.settings, self.backbone)
        problem = Problem.of(self.candidates, budget, fixed=fixed)
        require_room(problem, self.candidates)
        return problem


def search(
    backbone: str | nn.Module | Backbone = "builtin:digits",
    task: Any = "builtin:digits",
    budget: str = "1%",
    **settings: Any,
) -> Study:
    """Find which units to change, and how, within the budget; returns the finished study.

    `backbone` is a source or any `nn.Module` that returns logits (n, classes); `task` is a
    source, a data set, or (train, test) or (train, val, test) of them. Other settings are those
    of `autotune search`: `strategy`, `trials`, `epochs`, `seed`, `out`, … The module is given
    back unchanged. Raises `AutotuneError`, one kind for each wrong input.
    """
    given = {"backbone": _name(backbone), "task": _name(task), "budget": budget, **settings}
    resolved = read_settings(given, file=given.pop("config", None))
    began, folder = time.time(), RunFolder.new(resolved.out, resolved.task)
    with _released(prepare_search(resolved, backbone, task)) as setup:
        resolved = resolved.model_copy(update={"out": str(folder.path)})
        _begin(folder, replace(setup, settings=resolved), began)
    return Study(folder.path)


def resume(
    run: str | Path,
    backbone: str | nn.Module | Backbone | None = None,
    task: Any = None,
    **changes: Any,
) -> Study:
    """Go on with an interrupted search, or with more `trials` (the total); returns the study.

    A run that began from objects needs the same objects again. Allowed changes are `trials`,
    `timeout`, `workers` and `device`. Raises `RunError` when anything else differs.
    """
    began, folder = time.time(), RunFolder.existing(run)
    if strange := sorted(set(changes) - {"trials", "timeout", "workers", "device"}):
        raise ConfigError(
            f"A resumed run may change trials, timeout, workers and device, not {strange[0]!r}. "
            "Start a new search for that."
        )
    before = read_settings({}, file=str(folder.config))
    for kind, source, given in (
        ("backbone", before.backbone, backbone),
        ("task", before.task, task),
    ):
        if source == OBJECT and given is None:
            raise RunError(
                f"{folder.path} began from Python objects, so its {kind} is not known here. "
                "Resume it with autotune.resume(run, backbone=..., task=...)."
            )
    settings = before.model_copy(update={k: v for k, v in changes.items() if v is not None})
    with _released(
        prepare_search(settings, backbone or settings.backbone, task or settings.task)
    ) as setup:
        write_whole(folder.config, write_settings(settings))
        _drive(folder, setup, began)
    return Study(folder.path)


OBJECT = "object"
"""The name of a backbone or task that was given as a Python object."""


def prepare_search(settings: Settings, backbone: Any, task: Any) -> Setup:
    """Everything that can be refused is refused here, before a run folder is made."""
    STRATEGIES.check(settings.strategy)
    device = choose_device(settings.device)
    found = find_backbone(settings, backbone)
    data = _find_task(task, found).split(settings.seed)
    source_input = infer_input(data.train, found.input)
    for part in (data.train, data.val, data.test):
        assert part is not None
        check_fits(part, source_input, data.source)
    space, units, candidates = find_choices(settings, found)
    recipe = Recipe(settings.epochs, settings.batch_size, settings.augment, settings.metric, device)
    if settings.augment != "none" and (source_input is None or not source_input.is_picture):
        raise ConfigError(f"--augment {settings.augment} needs pictures, {data.source} has none.")
    engine = Engine(
        found,
        units,
        data,
        recipe,
        input=source_input,
        folds=settings.folds,
        seed=settings.seed,
        keep_head=settings.keep_head,
        about=_about(settings, data),
    )
    _try_forward(engine)
    lr = space.hyperparameters.lr
    methods = {name for cs in candidates.values() for c in cs for name in c.names}
    grids = {f"lr:{m}": tuple(lr[m]) for m in ("head", *sorted(methods))}
    grids["weight_decay"] = tuple(space.hyperparameters.weight_decay)
    setup = Setup(settings, found, data, space, units, candidates, engine, grids)
    setup.problem(head_cost(settings, found, len(data.classes)))
    return setup


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


def find_choices(settings: Settings, backbone: Backbone) -> tuple[SearchSpace, Units, Candidates]:
    """The search space, the units that it cuts, and what each may take at which cost."""
    space = load_space(settings.space or backbone.family)
    patterns = getattr(space.units, settings.granularity)
    units = find_units(backbone, patterns, granularity=settings.granularity)
    return space, units, find_candidates(backbone.network, units, space)


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
        first = str(error).splitlines()[0]
        raise ConfigError(f"A device must be there, {name!r} is not ({first}). Use cpu.") from error
    return name


def time_search(setup: Setup) -> Estimate:
    """Seconds of one full fine-tuning and memory, from three timed steps."""
    return estimate(setup.engine)


# one sitting of a driver


def _begin(folder: RunFolder, setup: Setup, began: float) -> None:
    buffers, stages = _settle_preparation(setup)
    fixed = head_cost(setup.settings, setup.backbone, len(setup.task.classes))
    problem = setup.problem(fixed + _buffer_cost(buffers))
    create(folder, setup.settings.storage, problem, {"identity": _identity(setup), **stages})
    if buffers:
        write_whole(folder.prepared, save_tensors(buffers))
    write_whole(folder.config, write_settings(setup.settings))
    _drive(folder, setup, began)


def _drive(folder: RunFolder, setup: Setup, began: float) -> None:
    settings = setup.settings
    records = Records(folder, settings.storage)
    _refuse_other(records.attribute("identity"), _identity(setup), folder)
    lease = Lease(
        folder.lease,
        lambda: records.study.user_attrs.get("lease"),
        lambda owner: records.study.set_user_attr("lease", owner),
    )
    deadline = began + settings.timeout if settings.timeout else None
    with ExitStack() as stack:
        stack.enter_context(_listening(folder))
        stack.enter_context(lease)
        driver = Driver(
            folder,
            settings.storage,
            _setting(setup),
            lease,
            trials=settings.trials,
            deadline=deadline,
        )
        stack.callback(_note_sitting, driver, began)
        try:
            _run(stack, folder, setup, driver)
        except KeyboardInterrupt as error:
            raise Interrupted(
                "Interrupted. What was finished is kept; go on with: "
                f"autotune resume {shlex.quote(str(folder.path))}"
            ) from error


def _run(stack: ExitStack, folder: RunFolder, setup: Setup, driver: Driver) -> None:
    engine, settings = setup.engine, setup.settings
    if (prepared := folder.read(folder.prepared)) is not None:
        engine.prepare(load_tensors(prepared))
    if driver.attribute("stage:estimate") is None:
        driver.record("stage:estimate", asdict(estimate(engine)))
    backend = stack.enter_context(_backend(setup))
    if settings.references:
        tell("stage", "References", stage="references")
        run_references(driver, backend, engine.test)
    if driver.attribute("stage:final") is None or len(driver.trials) < settings.trials:
        driver.record("stage:final", None)  # no answer again, until it is chosen among all trials
        limit = driver.problem.budget.limit
        tell("stage", "Trials", stage="trials", total=settings.trials, limit=limit)
        backend.run(driver)
        tell("stage", "Finalists and test", stage="finalists")
        run_finalists(driver, backend, engine.test)
    _sign(folder, driver.attribute("stage:final"))


def _settle_preparation(setup: Setup) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The prepared buffers (none of them: off), and what to record of it.

    `auto` compares the linear probe with re-estimated normalisation statistics and the one
    without on validation. The probe of the other way is a reference beside the study's own.
    """
    asked, engine = setup.settings.bnstats, setup.engine
    if not has_statistics(setup.backbone.network):
        if asked == "on":
            raise ConfigError(
                "--bnstats on needs normalisation statistics, this backbone has none. Use auto."
            )
        return {}, {"stage:preparation": {"bnstats": "off", "why": "no statistics to estimate"}}
    tell("stage", "Preparation", stage="preparation")
    buffers = engine.statistics()
    if asked != "auto" and not setup.settings.references:
        why = "as asked"
        return (buffers if asked == "on" else {}), _prepared(asked, why, {}, None)
    probes = {way: _probe(setup, buffers if way == "on" else {}) for way in ("off", "on")}
    better = max(probes, key=lambda way: probes[way]["value"])
    way = better if asked == "auto" else asked
    tell(
        "preparation",
        f"Normalisation statistics {'re-estimated' if way == 'on' else 'kept'}: the linear probe "
        f"reaches {probes['on']['value']:.4f} with and {probes['off']['value']:.4f} without.",
    )
    why = "better linear probe on validation" if asked == "auto" else "as asked"
    return (buffers if way == "on" else {}), _prepared(way, why, probes, setup)


def _prepared(way: str, why: str, probes: Mapping[str, Any], setup: Setup | None) -> dict[str, Any]:
    values = {name: probe["value"] for name, probe in probes.items()}
    stages = {"stage:preparation": {"bnstats": way, "why": why, "probe": values}}
    if setup is not None and setup.settings.references:
        other = "off" if way == "on" else "on"
        stages["reference:" + PROBE] = probes[way]
        stages[f"reference:{PROBE} (bnstats {other})"] = probes[other]
    return stages


def _probe(setup: Setup, buffers: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    engine = setup.engine
    engine.prepare(buffers)
    rates = three_rates(setup.grids, Plan(), None)
    with InlineBackend(engine) as backend:
        name = f"{PROBE} with{'' if buffers else 'out'} new statistics"
        return run_reference(name, Plan(), rates, setup.settings.seed, backend, engine.test)


def _buffer_cost(buffers: Mapping[str, torch.Tensor]) -> Cost:
    """Prepared buffers are stored in the delta file, but nothing trains them."""
    stored = sum(b.numel() for b in buffers.values())
    return Cost(0, stored, sum(b.numel() * b.element_size() for b in buffers.values()))


def _sign(folder: RunFolder, final: Mapping[str, Any]) -> None:
    """Write the test metrics and the seeds' spread into the header of `best/`."""
    artifact = from_bytes(folder.best.read_bytes(), str(folder.best))
    metrics = {**artifact.header["metrics"], "test": final["test"]}
    for name in ("values", "tests"):
        if name in final:
            metrics[name] = final[name]
    signed = replace(artifact, header={**artifact.header, "metrics": metrics})
    write_whole(folder.best, to_bytes(signed))


def _backend(setup: Setup) -> Backend:
    workers = setup.settings.workers
    if workers == 1:
        return InlineBackend(setup.engine)
    named = (setup.settings.backbone, setup.settings.task)
    places = [s.split(":", 1)[1].rpartition(":")[0] for s in named if s.startswith("python:")]
    threads = max(1, (os.cpu_count() or 1) // workers)
    return ProcessBackend(setup.engine, workers, partial(_ready_worker, places, threads))


def _ready_worker(places: list[str], threads: int) -> None:
    torch.set_num_threads(threads)
    import_sources(places)


def _setting(setup: Setup) -> Setting:
    settings = setup.settings
    return Setting(
        strategy=settings.strategy,
        seed=settings.seed,
        steps=settings.folds or settings.epochs,
        grids=setup.grids,
        workers=settings.workers,
        prune=settings.prune,
        keep=settings.keep,
    )


def _identity(setup: Setup) -> dict[str, Any]:
    """What must not change between sittings."""
    space = setup.space.model_dump_json()
    kept = setup.settings.model_dump(
        exclude={"trials", "timeout", "workers", "device", "out", "storage", "keep", "references"}
    )
    return {
        "backbone's fingerprint": setup.backbone.fingerprint,
        "data": setup.task.digest(),
        "search space": hashlib.sha256(space.encode()).hexdigest()[:16],
        **kept,
    }


def _refuse_other(stored: Mapping[str, Any], now: Mapping[str, Any], folder: RunFolder) -> None:
    differs = [key for key in now if stored.get(key) != now[key]]
    if differs:
        raise RunError(
            f"A run goes on with what it began with; {folder.path} differs in "
            f"{', '.join(differs)}. Start a new search, or bring the old state back."
        )


def _note_sitting(driver: Driver, began: float) -> None:
    if not driver.lease.is_lost:
        driver.record(f"sitting:{began:.3f}", time.time() - began)


@contextmanager
def _listening(folder: RunFolder) -> Iterator[None]:
    handler, level = EventLog(folder), log.level
    log.addHandler(handler)
    log.setLevel(min(logging.INFO, level) if level else logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        handler.close()


@contextmanager
def _released(setup: Setup) -> Iterator[Setup]:
    """The setup, its network given back as it was afterwards."""
    try:
        yield setup
    finally:
        setup.engine.close()


def _try_forward(engine: Engine) -> None:
    """One small batch through the network, so that what cannot run is said before anything runs."""
    part, device = engine.task.train, torch.device(engine.recipe.device)
    small = part.take(np.arange(min(2, len(part))))
    inputs, _ = next(batches(small, 2, input=engine.input, device=device))
    network = engine.backbone.network
    modes = [(module, module.training) for module in network.modules()]
    try:
        with torch.no_grad():
            logits = network.eval()(inputs)
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TaskError(
            f"The backbone must take the task's examples, {tuple(inputs.shape[1:])} "
            f"{str(inputs.dtype).removeprefix('torch.')} each; it raised: {first}. "
            "Change the examples, or describe the input with --input FILE."
        ) from error
    finally:
        for module, mode in modes:
            module.training = mode
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2:
        got = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise BackboneError(f"A backbone must return logits (n, classes), this one gives {got}.")


def _find_task(task: Any, backbone: Backbone) -> Task:
    if isinstance(task, str):
        return load_task(task, backbone.input)
    return as_task(task, OBJECT, backbone.input)


def _name(given: Any) -> str:
    return given if isinstance(given, str) else OBJECT


def _about(settings: Settings, task: Task) -> dict[str, Any]:
    return {
        "versions": {
            name: _version(name) for name in ("autotune", "torch", "torchvision", "optuna")
        },
        "python": platform.python_version(),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "backbone": settings.backbone,
        "budget": settings.budget,
        "data": task.digest(),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _status(study: Study) -> dict[str, Any]:
    budget, final, ranked = study.problem.budget, study.final, study._records.ranked()
    states: dict[str, int] = {}
    for record in study.trials:
        states[record.state_name] = states.get(record.state_name, 0) + 1
    best = _best_of_final(final) if final else _best_so_far(ranked)
    return {
        "run": str(study.folder.path),
        "state": study.state,
        "trials": states,
        "asked": study.settings.trials,
        "repeats": sum(r.repeat_of is not None for r in study.trials),
        "best": best,
        "budget": {
            "limit": budget.limit,
            "total": budget.total,
            "measure": budget.measure.value,
            "text": budget.text,
            "room": study.problem.room,
        },
        "references": study.references,
        "preparation": study.preparation,
        "test": _test_of(final, study.settings.metric) if final else None,
        "final": final,
        "seconds": study.seconds,
        "full_finetuning_seconds": study.full_finetuning,
    }


def _best_of_final(final: Mapping[str, Any]) -> dict[str, Any]:
    plan = json.loads(final["plan"])
    keys = ("number", "value", "cost", "label")
    return {**{key: final[key] for key in keys}, "plan": plan}


def _best_so_far(ranked: list[TrialRecord]) -> dict[str, Any] | None:
    if not ranked:
        return None
    top = ranked[0]
    return {
        "number": top.number,
        "value": top.value,
        "cost": asdict(top.cost),
        "label": str(top.plan),
        "plan": json.loads(top.plan.to_json()),
    }


def _test_of(final: Mapping[str, Any], metric: str) -> dict[str, Any]:
    test = final["test"]
    return {"metric": metric, "value": test[metric], "accuracy": test["accuracy"], "n": test["n"]}
