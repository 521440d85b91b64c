"""One session of a search: prepares it, runs its stages in order, and delivers the answer."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from safetensors.torch import save as save_tensors

from autotune.deltas.artifact import from_bytes, to_bytes
from autotune.problem.problem import Problem
from autotune.run.related import open_run
from autotune.run.settings import Settings, write_settings
from autotune.session.driving import driving
from autotune.session.identity import identity_of
from autotune.session.policy_stage import learned_scores, open_supernet, save_policy
from autotune.session.preparation import buffer_cost, settle_preparation
from autotune.session.setup import Setup
from autotune.study.backends.base import Backend
from autotune.study.driver import Driver, create
from autotune.study.run_folder import RunFolder
from autotune.study.selection.baselines import run_baselines
from autotune.study.selection.finalists import run_finalists
from autotune.study.selection.unit_profiles import as_trials, repeat_all
from autotune.study.stages import ESTIMATE, FINAL, PREPARATION, SESSION, TIMINGS, Final, versioned
from autotune.study.strategies.score_source import ScoreSource
from autotune.training.engine import Engine
from autotune.training.estimate import estimate
from autotune.utils.events import tell, warn
from autotune.utils.files import write_whole
from autotune.utils.interrupts import interruptible
from autotune.utils.timings import counted, spent


@interruptible()
def begin_search(folder: RunFolder, setup: Setup, began: float, origins: Mapping[str, str]) -> None:
    """Prepare the backbone, create the study and the run folder, and drive the study."""
    buffers, records = settle_preparation(setup)
    problem, identity = setup.problem.charged(buffer_cost(buffers)), identity_of(setup)
    stored = {name: versioned(record.to_json()) for name, record in records.items()}
    begun = {"identity": identity, **stored}
    if setup.settings.supernet is not None:
        open_supernet(setup.settings.supernet, identity, begun[PREPARATION]["bnstats"])
    create(folder, setup.settings.storage, problem, begun, _profiled(setup, problem, begun))
    if buffers:
        write_whole(folder.prepared, save_tensors(dict(buffers)))
    if setup.task.skipped:
        listed = [asdict(example) for example in setup.task.skipped]
        write_whole(folder.skipped, json.dumps(listed, indent=2) + "\n")
    write_whole(folder.config, write_settings(setup.settings))
    drive(folder, setup, began, origins)


def _profiled(setup: Setup, problem: Problem, begun: Mapping[str, Any]) -> Sequence[Any]:
    """Trials of `--profile`, which come in addition to the requested number of trials."""
    if setup.settings.profile is None:
        return ()
    statistics = begun[PREPARATION]["bnstats"]
    profile = open_run(setup.settings.profile, "--profile", begun["identity"], statistics)
    trials = as_trials(profile, problem, setup.grids)
    tell("profile", f"{len(trials)} trials of {profile.folder.path} are known from the beginning.")
    return trials


def drive(folder: RunFolder, setup: Setup, began: float, origins: Mapping[str, str]) -> None:
    """Drive the study to its answer; on Ctrl-C raise `Interrupted`, keeping finished work.

    `origins` maps settings to the places they were given in.
    """
    settings = setup.settings
    deadline = began + settings.timeout if settings.timeout else None
    with driving(folder, setup, command="resume", deadline=deadline) as (driver, backend):
        _note_settings(folder, settings)
        folder.add_origins(origins)
        if (final := driver.final) is not None and not driver.has_more():
            _sign(folder, final)
            return  # it has its answer: nothing is run, so nothing is counted
        try:
            _run(folder, setup, driver, backend)
        finally:
            _record_session(driver, began)


def _note_settings(folder: RunFolder, settings: Settings) -> None:
    """Write `config.yaml` if a resume changed a setting; a new search has written it already."""
    text = write_settings(settings)
    if folder.config.read_text() != text:
        write_whole(folder.config, text)


def _run(folder: RunFolder, setup: Setup, driver: Driver, backend: Backend) -> None:
    engine, settings = setup.engine, setup.settings
    _report_begin(folder, setup, driver)
    if driver.attribute(ESTIMATE) is None:
        with spent("training"):
            driver.write(ESTIMATE, _estimated(engine))
    if settings.references:
        tell("stage", "Baselines", stage="references")
        run_baselines(driver, backend, engine.test)
    with spent("proposing"):
        driver.scores = learned_scores(folder, setup, driver)
    if driver.final is None or driver.has_more():
        driver.write(FINAL, None)  # no answer until it is chosen among all trials
        tell("stage", "Trials", stage="trials")
        backend.run(driver)
        repeat_all(driver, backend, driver.strategy.seeds)
        with spent("proposing"):
            save_policy(folder, setup, driver)  # before the answer, which ends a search
        tell("stage", "Finalists", stage="finalists")
        run_finalists(driver, backend, engine.test)
    assert driver.final is not None
    _sign(folder, driver.final)
    tell("answer", f"The answer is in {folder.best}")


def _report_begin(folder: RunFolder, setup: Setup, driver: Driver) -> None:
    """Report the task, budget and stages of a search as an event."""
    settings, budget = setup.settings, driver.problem.budget
    stages = driver.strategy.score_source.stages
    unneeded = [stage for stage in ScoreSource.POLICY.stages if stage not in stages]
    unwanted = () if settings.references else ("references",)
    tell(
        "begin",
        f"Searching in {folder.path}: {settings.task} within {budget.text}",
        run=str(folder.path),
        task=settings.task,
        budget=budget.text,
        limit=budget.limit,
        room=driver.problem.room,
        measure=budget.measure.value,
        metric=settings.metric,
        units=list(driver.problem.units),
        trials=settings.most_trials,
        workers=settings.n_workers,
        left_out=[*unneeded, *unwanted],
        references={name: baseline.value for name, baseline in driver.baselines.items()},
    )


def _estimated(engine: Engine) -> dict[str, Any]:
    """Estimate of one full fine-tuning; `full` is None if it does not fit into memory."""
    try:
        return asdict(estimate(engine))
    except torch.OutOfMemoryError:
        warn("Full fine-tuning does not fit into memory, so the cost cannot be compared with it.")
        return {"full": None}


def _sign(folder: RunFolder, final: Final) -> None:
    """Write the test metrics and the spread over seeds into the header of the answer's file."""
    artifact = from_bytes(folder.best.read_bytes(), str(folder.best))
    spreads = {"values": final.values, "tests": final.tests}
    by_seed = {name: spread.to_json() for name, spread in spreads.items() if spread is not None}
    metrics = {**artifact.header["metrics"], "test": dict(final.test), **by_seed}
    signed = replace(artifact, header={**artifact.header, "metrics": metrics})
    write_whole(folder.best, to_bytes(signed))


def _record_session(driver: Driver, began: float) -> None:
    if not driver.lease.is_lost:
        driver.write(f"{TIMINGS}:{began:.3f}", counted())
        driver.write(f"{SESSION}:{began:.3f}", time.time() - began)
