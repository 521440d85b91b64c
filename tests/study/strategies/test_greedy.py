"""`greedy` with whole blocks and folds, against a plain loop; resumed, and with two workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import autotune
from autotune.errors import Interrupted
from autotune.problem.job import Job
from autotune.problem.plan import Choice, Plan
from autotune.run.settings import read_settings
from autotune.session.setup import prepare_search
from autotune.tasks import load_task
from autotune.utils.events import event_of, log

SPACE = """
family: digits
units:
  block: &table {early: '(?:conv1|bn1|layer1)\\.', middle: 'layer2\\.', late: 'layer3\\.0\\.',
                 last: 'layer3\\.1\\.'}
  layer: *table
choices: [{subtune: {what: all}}]
hyperparameters: {lr: {head: [0.01], subtune: [0.001]}}
"""
HOW = {"folds": 3, "epochs": 1, "bnstats": "off", "references": False, "budget": "100%"}


@pytest.fixture
def small(tmp_path: Path) -> dict[str, Any]:
    """Four units of the digits network, each whole or frozen."""
    (tmp_path / "space.yaml").write_text(SPACE)
    part = load_task("builtin:digits-rotated", None).train
    train, test = part.take(np.arange(240)), part.take(np.arange(240, 300))
    np.savez(
        tmp_path / "digits.npz",
        x_train=train.inputs.numpy(),
        y_train=train.labels,
        x_test=test.inputs.numpy(),
        y_test=test.labels,
    )
    return {**HOW, "task": f"npz:{tmp_path}/digits.npz", "space": f"{tmp_path}/space.yaml"}


def plain_loop(small: dict[str, Any], epsilon: float) -> list[Plan]:
    """The picks of SubTuning's loop: folds by the engine, all else by hand."""
    settings = read_settings({**small, "strategy": "random"})
    setup = prepare_search(settings, settings.backbone, settings.task)
    rates = {"lr:head": 0.01, "lr:subtune": 0.001, "weight_decay": 0.0}
    seen: dict[Plan, float] = {}

    def value(plan: Plan) -> float:
        if plan not in seen:
            *_, last = setup.engine(Job("by hand", plan, rates, settings.seed))
            seen[plan] = last.value
        return seen[plan]

    units = [unit.name for unit in setup.units if not unit.is_span()]
    whole = Choice.of("subtune", what="all")
    picks, best = [Plan()], value(Plan())
    while len(picks[-1]) < len(units):
        left = [unit for unit in units if unit not in picks[-1].choices]
        tried = [Plan({**picks[-1].choices, unit: whole}) for unit in left]
        picks.append(max(tried, key=value))
        if value(picks[-1]) < best - epsilon:
            break
        best = max(best, value(picks[-1]))
    setup.engine.close()
    return picks


def picks_of(study: autotune.Study) -> list[Plan]:
    """The best plan of every size, in the order of sizes."""
    values: dict[int, list[tuple[float, int, Plan]]] = {}
    for trial in study.trials:
        values.setdefault(len(trial.plan), []).append((trial.value, -trial.number, trial.plan))
    return [max(values[size])[2] for size in sorted(values)]


@pytest.mark.slow
def test_picks_what_a_plain_loop_over_the_same_folds_picks(small, tmp_path):
    study = autotune.search(**small, strategy="greedy", out=f"{tmp_path}/run")
    assert picks_of(study) == plain_loop(small, 0.01)
    assert [len(trial.plan) for trial in study.trials][:6] == [0, 1, 1, 1, 1, 2]
    assert all(len(trial.curve) == 3 for trial in study.trials)


class Interrupting:
    """Ctrl-C when the n-th trial has begun."""

    level = 0

    def __init__(self, n: int) -> None:
        self.left = n

    def handle(self, record: Any) -> None:
        self.left -= getattr(event_of(record), "kind", "") == "start"
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.fixture
def tiny(
    tiny_network: Any, tiny_task: Any, tmp_path: Path, small: dict[str, Any]
) -> dict[str, Any]:
    """The same on the tiny network, which trains in no time."""
    (tmp_path / "space.yaml").write_text(
        "family: any\nunits: {block: tree, layer: tree}\nchoices: [{subtune: {what: all}}]\n"
        "hyperparameters: {lr: {head: [0.01], subtune: [0.001]}}\n"
    )
    return {
        **small,
        "backbone": tiny_network,
        "task": tiny_task,
        "strategy": "greedy",
    }


@pytest.fixture(scope="session")
def outcomes() -> dict[str, Any]:
    """Plans, values and answer of a search that ran through, once it is known."""
    return {}


def outcome(study: autotune.Study) -> Any:
    return [(trial.plan, trial.value) for trial in study.trials], study.best.plan


@pytest.mark.slow
@pytest.mark.parametrize("at", [1, 3, 5, 7])
def test_resumes_in_any_round(tiny, tmp_path, outcomes, at):
    if not outcomes:
        outcomes["whole"] = outcome(autotune.search(**tiny, out=f"{tmp_path}/whole"))
    stop = Interrupting(at)
    log.addHandler(stop)
    try:
        with pytest.raises(Interrupted):
            autotune.search(**tiny, out=f"{tmp_path}/run")
    finally:
        log.removeHandler(stop)
    resumed = autotune.resume(f"{tmp_path}/run", tiny["backbone"], tiny["task"])
    assert outcome(resumed) == outcomes["whole"]


def test_backward_begins_with_all_units(tiny, tmp_path):
    options = {"direction": "backward"}
    study = autotune.search(**tiny, options=options, out=f"{tmp_path}/run")
    assert [len(trial.plan) for trial in study.trials][:5] == [3, 2, 2, 2, 1]


@pytest.mark.processes
def test_two_workers_pick_what_one_picks(small, tmp_path):
    small = {**small, "folds": 2, "strategy": "greedy"}
    one = autotune.search(**small, out=f"{tmp_path}/one")
    two = autotune.search(**small, workers=2, out=f"{tmp_path}/two")
    values = {trial.plan: trial.value for trial in two.trials}
    assert all(values[trial.plan] == trial.value for trial in one.trials)
    assert two.best.plan == one.best.plan
