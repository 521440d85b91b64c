"""The stage that learns a policy, inside a search."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

import autotune
from autotune.errors import (
    BudgetError,
    ConfigError,
    Interrupted,
    PolicyError,
    RunError,
    TrialError,
)
from autotune.study.checkpoint_file import pack, unpack
from autotune.study.policy.network import read_policy
from autotune.utils.events import event_of, log

Search = Callable[..., autotune.Study]
GIVEN = {"budget": "40%", "epochs": 6, "bnstats": "off", "references": False}
SPACE = """
family: any
units: {{block: tree, layer: tree}}
choices: [{choices}]
hyperparameters: {{lr: {{head: [0.01, 0.03], {rates}}}}}
"""
MENU = "{lowrank: {rank: [1, 2]}}, {scale: {}}, {subtune: {what: norms}}"
RATES = "lowrank: [0.01, 0.03], scale: [0.01], subtune: [0.01]"


@pytest.fixture
def search(tiny_network: Any, tiny_task: Any, tmp_path: Path, monkeypatch: Any) -> Search:
    """A search by policy on the tiny network; choices, rates and settings can be given."""

    def run(
        name: str = "run", *, choices: str = MENU, rates: str = RATES, **settings: Any
    ) -> autotune.Study:
        space, out = tmp_path / "space.yaml", str(tmp_path / name)
        space.write_text(SPACE.format(choices=choices, rates=rates))
        arguments = {**GIVEN, "space": str(space), **settings}
        return autotune.search(tiny_network, tiny_task, out=out, **arguments)

    return run


class Stopping(logging.Handler):
    """Ctrl-C when an event of this kind is told for the n-th time."""

    def __init__(self, kind: str, n: int = 1) -> None:
        super().__init__()
        self.kind, self.left = kind, n

    def emit(self, record: logging.LogRecord) -> None:
        if (event := event_of(record)) and event.kind == self.kind:
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt


def interrupted(search: Search, handler: Stopping) -> None:
    log.addHandler(handler)
    try:
        with pytest.raises(Interrupted):
            search("cut")
    finally:
        log.removeHandler(handler)


def outcome(study: autotune.Study) -> Any:
    policy = study.policy and replace(study.policy, seconds=0.0)
    trials = [(str(t.plan), dict(t.hyperparameters), t.value, t.curve) for t in study.trials]
    saved = (study.folder.path / "best" / "policy.safetensors").read_bytes()
    return policy, trials, study.final.tests if study.final else None, saved


@pytest.fixture(scope="session")
def whole() -> dict[str, Any]:
    """The outcome of a search that ran through, once it is known."""
    return {}


@pytest.mark.slow
@pytest.mark.parametrize(
    "stop", [("stage", 1), ("round", 1), ("round", 3), ("policy", 1), ("end", 1)]
)
def test_interrupted_anywhere_and_resumed_it_comes_to_the_same(
    search, tiny_network, tiny_task, tmp_path, whole, stop
):
    if not whole:
        whole["outcome"] = outcome(search("whole"))
    interrupted(search, Stopping(*stop))
    study = autotune.resume(tmp_path / "cut", backbone=tiny_network, task=tiny_task)
    assert outcome(study) == whole["outcome"]
    assert not study.folder.supernet.exists()


@pytest.mark.slow
def test_a_forged_checkpoint_of_the_supernet_is_refused_in_one_line(
    search, tiny_network, tiny_task, tmp_path
):
    interrupted(search, Stopping("round", 1))
    file = tmp_path / "cut" / "supernet.checkpoint"
    whole = unpack(file.read_bytes())
    assert whole is not None
    for forged in (b"", whole[1][:-5], *map(_with, FORGED)):
        file.write_bytes(pack(forged, {}))
        with pytest.raises(RunError, match=r"supernet\.checkpoint is something else") as raised:
            autotune.resume(tmp_path / "cut", backbone=tiny_network, task=tiny_task)
        assert "\n" not in str(raised.value)
    file.unlink()
    study = autotune.resume(tmp_path / "cut", backbone=tiny_network, task=tiny_task)
    assert study.state == "complete"


FORGED = [{}, {"done": "x"}, {"earned": [[1]]}]
"""Values of the header of a checkpoint of a supernet."""


def _with(course: dict[str, Any]) -> bytes:
    whole = {"done": 1, "plans": [], "probabilities": [], "earned": [], **course}
    return save({"optimizer/0/exp_avg": torch.ones(2, 99)}, {"course": json.dumps(whole)})


def test_what_came_of_it_is_reported(search):
    study = search()
    policy_status = study.status()["policy"]
    assert (
        policy_status["rounds"] >= 3
        and policy_status["seconds"] > 0
        and 0 <= policy_status["moved"] <= 1
    )
    assert {"stable", "same_as_proxies", "agreement", "left_out", "label"} <= policy_status.keys()
    assert "scores" not in policy_status
    assert all(study.problem.fits(trial.plan) for trial in study.trials)
    assert str(study.trials[0].plan) == policy_status["label"]
    assert study.policy.probabilities, "one table of probabilities for every round of credits"


@pytest.mark.slow
def test_a_policy_of_one_search_starts_another(search):
    first = search("first", trials=4).folder.policy
    second = search("second", policy=str(first), budget="20%", seed=1)
    assert read_policy(second.folder.policy).names


@pytest.mark.slow
def test_it_takes_few_trials_unless_more_are_asked_for(search):
    assert len(search("few", epochs=2).trials) == 3
    assert len(search("more", epochs=2, trials=5).trials) == 5


@pytest.mark.slow
def test_where_nothing_can_share_a_supernet_it_says_so(search, caplog):
    with caplog.at_level(logging.INFO):
        study = search(choices="{side: {width: [1, 2]}}", rates="side: [0.01]", budget="90%")
    assert study.state == "complete" and study.policy.rounds == 0
    assert set(study.policy.left_out) == {"side-1", "side-2"}
    assert "No choice earned anything" in caplog.text


@pytest.mark.slow
def test_that_nothing_was_earned_is_reported(search, caplog):
    """With rates of almost nothing no delta earns anything worth a change."""
    with suppress(TrialError):  # so little that the trials may fail of it
        search(choices="{lowrank: {rank: 1}}", rates="lowrank: [1.0e-30]")
    assert "No choice earned anything in the supernet" in caplog.text


def test_wrong_policies_are_refused_before_anything_runs(search, tmp_path):
    (tmp_path / "wrong.safetensors").write_bytes(b"nothing")
    with pytest.raises(PolicyError, match="Name another with --policy"):
        search(policy=str(tmp_path / "wrong.safetensors"))
    with pytest.raises(ConfigError, match="--policy is for strategies that learn a policy, tpe"):
        search(policy=str(tmp_path / "wrong.safetensors"), strategy="tpe")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("criterion", ["ratio", "fisher", "activation"])
def test_a_search_by_proxy_confirms_the_plan_of_one_criterion(search, criterion):
    study = search(strategy="proxy", options={"criterion": criterion})
    (trial,) = study.trials
    assert trial.is_complete and trial.plan.choices
    first, second = study._records.attribute("stage:proxies")
    assert len(first) == len(second) > 0
    assert [p.name for p in (study.folder.path / "best").iterdir() if "policy" in p.name] == []


@pytest.mark.slow
def test_several_budgets_share_one_supernet(search, tiny_network, tiny_task, tmp_path):
    search()  # writes the space
    arguments = {**GIVEN, "space": str(tmp_path / "space.yaml")}
    del arguments["budget"]
    by_budget = autotune.search_budgets(
        ["10%", "40%", "20%"], tiny_network, tiny_task, out=f"{tmp_path}/several", **arguments
    )
    assert [*by_budget] == ["40%", "20%", "10%"]
    for budget, study in by_budget.items():
        assert study.folder.path == tmp_path / "several" / budget
        assert study.best.cost.parameters <= study.problem.budget.limit
    first, *others = (study.policy.earned for study in by_budget.values())
    assert all(earned == first for earned in others)
    limits = [study.problem.budget.limit for study in by_budget.values()]
    assert limits == sorted(limits, reverse=True)


@pytest.mark.slow
def test_several_budgets_keep_a_supernet_that_is_named(search, tiny_network, tiny_task, tmp_path):
    measured = search()
    chosen = {**GIVEN, "space": str(tmp_path / "space.yaml"), "supernet": f"{tmp_path}/run"}
    del chosen["budget"]
    studies = autotune.search_budgets(
        ["20%", "10%"], tiny_network, tiny_task, out=f"{tmp_path}/several", **chosen
    )
    for study in studies.values():
        assert study.settings.supernet == f"{tmp_path}/run"
        assert study.policy.earned == measured.policy.earned


def test_several_budgets_with_one_storage_are_refused_before_any_runs(tmp_path):
    storage, out = f"sqlite:///{tmp_path}/study.db", tmp_path / "several"
    with pytest.raises(ConfigError, match=r"one study, got --storage .* with 2 budgets"):
        autotune.search_budgets(["40%", "20%"], out=str(out), storage=storage)
    assert not out.exists()
    assert not (tmp_path / "study.db").exists()


@pytest.mark.slow
def test_a_supernet_of_another_training_is_refused(search, tmp_path):
    search()
    with pytest.raises(ConfigError, match="--supernet needs a run of the same training"):
        search("other", epochs=5, supernet=f"{tmp_path}/run")
    assert not (tmp_path / "other").exists()


def test_budgets_of_different_units_are_refused():
    with pytest.raises(BudgetError, match="must be in one unit, got 1%, 5k"):
        autotune.search_budgets(["1%", "5k"])
