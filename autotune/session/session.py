"""One session of a search: prepares it, runs its stages in order, and delivers the answer."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import torch

from autotune.deltas.artifact import from_bytes, to_bytes
from autotune.errors import StudyExists
from autotune.run.known_runs import remember_run
from autotune.run.settings import Settings, write_settings
from autotune.session.beginning import check_related, create_study, prepare_study
from autotune.session.driving import driving, ending_in_order, owned
from autotune.session.policy_stage import learned_scores, save_policy
from autotune.session.setup import Setup
from autotune.study.backends.base import Backend
from autotune.study.driver import Driver
from autotune.study.run_folder import RunFolder
from autotune.study.selection.baselines import run_baselines
from autotune.study.selection.finalists import run_finalists
from autotune.study.selection.unit_profiles import repeat_all
from autotune.study.stages import ESTIMATE, FINAL, SESSION, TIMINGS, Final
from autotune.study.strategies.score_source import ScoreSource
from autotune.study.writer import Writer
from autotune.training.engine import Engine
from autotune.training.estimate import estimate
from autotune.utils.events import tell, warn
from autotune.utils.timings import counted, spent


def begin_search(folder: RunFolder, setup: Setup, began: float, origins: Mapping[str, str]) -> None:
    """Create the run folder and its study, and drive the study.

    `config.yaml` is the first file, so that a search can be resumed whenever it is interrupted.
    """
    check_related(setup)
    remember_run(folder, setup.settings)  # first, as a resume asks for it
    folder.claim(write_settings(setup.settings))
    with ending_in_order(folder, setup, command="resume"):
        _create(folder, setup)
        if setup.task.skipped:
            listed = [asdict(example) for example in setup.task.skipped]
            folder.write(folder.skipped, json.dumps(listed, indent=2) + "\n")
        drive(folder, setup, began, origins)


def _create(folder: RunFolder, setup: Setup) -> None:
    try:
        create_study(folder, setup)
    except StudyExists:  # another search was quicker: its study is not that of this folder
        folder.abandon()
        raise


def drive(folder: RunFolder, setup: Setup, began: float, origins: Mapping[str, str]) -> None:
    """Drive the study to its answer; on Ctrl-C raise `Interrupted`, keeping finished work.

    `origins` maps settings to the places they were given in.
    """
    settings = setup.settings
    deadline = began + settings.timeout if settings.timeout else None
    with owned(folder, setup, command="resume") as writer:
        _note_settings(folder, settings)
        folder.add_origins(origins)
        if writer.preparation is None:
            with _counted(writer, began):
                prepare_study(setup, writer)
        with driving(setup, writer, deadline=deadline) as (driver, backend):
            if (final := driver.final) is not None and not driver.has_more():
                _sign(folder, final)
                return  # it has its answer: nothing is run, so nothing is counted
            with _counted(driver, began):
                _run(folder, setup, driver, backend)


def _note_settings(folder: RunFolder, settings: Settings) -> None:
    """Write `config.yaml` if a resume changed a setting; a new search has written it already."""
    text = write_settings(settings)
    if folder.config.read_text(encoding="utf-8") != text:
        folder.write(folder.config, text)


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
    folder.write(folder.best, to_bytes(signed))


@contextmanager
def _counted(writer: Writer, began: float) -> Iterator[None]:
    """Context after which the time since `began` is recorded as that of this session."""
    try:
        yield
    finally:
        if not writer.lease.is_lost:
            writer.write(f"{TIMINGS}:{began:.3f}", counted())
            writer.write(f"{SESSION}:{began:.3f}", time.time() - began)
