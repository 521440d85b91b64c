"""A search before its first trial: one problem, whatever is charged to it later."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from torch import Tensor, nn
from torch.nn import functional as F

import autotune
from autotune.errors import BudgetError
from autotune.problem.plan import Plan
from autotune.run.settings import read_settings, space_folder
from autotune.session.preparation import buffer_cost
from autotune.session.setup import prepare_search, released
from autotune.study.selection.baselines import baseline_plans

QUICK: dict[str, Any] = {"trials": 1, "epochs": 1, "strategy": "random", "device": "cpu"}


@pytest.fixture
def sized_space(tmp_path: Path) -> str:
    """A search space whose low rank has the sizes that follow from the budget."""
    space = yaml.safe_load((space_folder() / "digits.yaml").read_text())
    space["choices"] = [{"lowrank": {"rank": "budget"}}]
    file = tmp_path / "sized.yaml"
    file.write_text(yaml.safe_dump(space))
    return str(file)


@pytest.mark.slow
@pytest.mark.parametrize("limits", [{"budget": "60kB"}, {"budget": "5%", "count_head": True}])
def test_sizes_that_follow_from_the_budget_stay_when_more_is_charged(
    sized_space: str, tmp_path: Path, limits: dict[str, Any]
):
    study = autotune.search(space=sized_space, out=str(tmp_path / "run"), **QUICK, **limits)
    assert {"probe", "uniform"} <= set(study.baselines)
    assert study.problem.fits(study.best.plan)


@pytest.mark.parametrize("bnstats", ["auto", "on"])
def test_the_largest_size_leaves_room_for_new_statistics(sized_space: str, bnstats: str):
    settings = read_settings({"space": sized_space, "budget": "60kB", "bnstats": bnstats})
    with released(prepare_search(settings, settings.backbone, settings.task)) as setup:
        charged = setup.problem.charged(buffer_cost(setup.engine.statistics()))
        assert charged.choices == setup.problem.choices
        assert charged.room < setup.problem.room


@pytest.mark.slow
def test_statistics_that_leave_no_room_are_not_re_estimated(tmp_path: Path):
    study = autotune.search(budget="8kB", out=str(tmp_path / "run"), **QUICK)
    assert study.preparation.bnstats == "off"
    assert "leave no room" in study.preparation.why
    assert study.problem.fixed.bytes == 0


def test_statistics_that_are_asked_for_and_leave_no_room_are_refused():
    settings = read_settings({"budget": "8kB", "bnstats": "on"})
    with pytest.raises(BudgetError, match="already taken"):
        prepare_search(settings, settings.backbone, settings.task)


def test_charging_takes_choices_away_and_changes_no_cost():
    settings = read_settings({"budget": "0.3%", "count_head": True, "bnstats": "off"})
    with released(prepare_search(settings, settings.backbone, settings.task)) as setup:
        problem = setup.problem
    assert problem.fixed.parameters > 0
    charged = problem.charged(problem.fixed)
    assert charged.room == problem.room - problem.fixed.parameters
    for unit, choices in charged.choices.items():
        assert set(choices) <= set(problem.choices[unit])
        assert all(charged.costs[unit, c.label] == problem.costs[unit, c.label] for c in choices)
    for plan in (Plan(), *baseline_plans(charged, 0).values()):
        assert problem.cost(plan) == charged.cost(plan)


class Dropping(nn.Module):
    """Dropout that is active in evaluation mode too."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5)


@pytest.mark.parametrize(("middle", "times"), [(Dropping(), 1), (nn.Dropout(0.5), 0)])
def test_a_random_forward_pass_is_reported_once_at_the_start(middle, times, caplog):
    network = nn.Sequential(nn.Linear(8, 8), middle, nn.Linear(8, 2))
    rows = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    parts = [(rows, (rows[:, 0] > 0).astype(np.int64))] * 3
    settings = read_settings({"backbone": "object", "task": "object", "budget": "50%"})
    with (
        caplog.at_level(logging.WARNING, "autotune"),
        released(prepare_search(settings, network, tuple(parts))),
    ):
        pass
    warnings = [r for r in caplog.messages if "two forward passes of this network differ" in r]
    assert len(warnings) == times
