"""A strategy states its facts; what is asked of it is asked of its class."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import autotune
from autotune.errors import ConfigError
from autotune.problem.plan import Plan
from autotune.run.origins import tell_origins
from autotune.run.settings import Settings
from autotune.study.pruners import PRUNERS, choose_pruner
from autotune.study.strategies import STRATEGIES, check_options, load_strategy
from autotune.study.strategies.base import DecodingSampler, ListingSampler, PlanSampler
from autotune.study.strategies.score_source import ScoreSource

TRIALS = {"policy": 3, "proxy": 1, "greedy": 1000, "profile": 1000, "bruteforce": 1000}


@pytest.mark.parametrize("name", STRATEGIES.names())
def test_every_strategy_states_its_facts(name, problem, grids):
    strategy = load_strategy(name)
    assert issubclass(strategy, PlanSampler)
    assert strategy.default_trials == TRIALS.get(name)
    assert strategy.default_pruner in ("", *PRUNERS.names())
    assert isinstance(strategy.score_source, ScoreSource)
    assert check_options(name, {}) == {}
    made = strategy(problem, grids, seed=0, workers=2, scores={})
    assert made.seeds == 1 and made.criterion in ("mass", "gain")


def test_who_ends_without_a_limit_learns_and_races():
    loaded = {name: load_strategy(name) for name in STRATEGIES.names()}
    ending = {name for name, strategy in loaded.items() if strategy.ends_by_itself}
    assert ending == {"greedy", "profile", "bruteforce"}
    sources = {name: s.score_source for name, s in loaded.items()}
    scored = {name: source for name, source in sources.items() if source.stages}
    assert scored == {"policy": ScoreSource.POLICY, "proxy": ScoreSource.PROXIES}
    pruners = {name: choose_pruner("auto", s.default_pruner, 0) for name, s in loaded.items()}
    assert pruners == {
        **dict.fromkeys(("tpe", "gp", "nsga2", "qmc", "random"), "halving"),
        **dict.fromkeys(("greedy", "proxy", "bruteforce", "profile"), "none"),
        "policy": "race",
    }


def test_settings_take_the_trials_of_the_strategy_unless_a_number_is_asked_for():
    greedy, few, tpe = (
        Settings(strategy="greedy"),
        Settings(strategy="greedy", trials=5),
        Settings(strategy="tpe"),
    )
    assert [s.trials for s in (greedy, few, tpe)] == [1000, 5, 20]
    assert [s.most_trials for s in (greedy, few, tpe)] == [None, 5, 20]
    origins = [tell_origins(s, {})["trials"] for s in (greedy, tpe)]
    assert origins == ["strategy default", "default"]


class Cheapest(ListingSampler):
    """Each unit alone with its cheapest choice, as in the how-to page; it states no facts."""

    def next_plan(self, begun: Any, study: Any) -> Plan | None:
        offers = {unit: self.problem.choices[unit][1:] for unit in self.problem.units}
        plans = [Plan({unit: choices[0]}) for unit, choices in offers.items() if choices]
        return next((plan for plan in plans if plan.digest not in begun), None)


class Scored(DecodingSampler):
    """Asks for proxies by an option, and for two trainings of each trial."""

    default_trials = 2
    score_source = ScoreSource.PROXIES
    seeds = 2

    def __init__(self, *arguments: Any, criterion: str = "mass", **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.criterion = criterion

    def make(self, seed: int) -> Any:
        return load_strategy("random")(self.problem, self.grids, seed=seed)


@pytest.fixture
def search_by(tiny_network, tiny_task, tmp_path, monkeypatch):
    """A search by a strategy for which nothing but a line of the table is added."""

    def search(strategy: type[PlanSampler], **settings: Any) -> autotune.Study:
        monkeypatch.setitem(STRATEGIES.entries, "new", f"{__name__}:{strategy.__name__}")
        how = {"budget": "60%", "epochs": 1, "bnstats": "off", "strategy": "new", **settings}
        return autotune.search(tiny_network, tiny_task, out=f"{tmp_path}/run", **how)

    return search


@pytest.mark.slow
def test_a_new_strategy_without_facts_has_the_defaults_of_its_base(search_by):
    study = search_by(Cheapest)
    tried = [trial for trial in study.trials if not trial.origin]
    assert len(tried) == sum(len(c) > 1 for c in study.problem.choices.values())
    assert all(len(trial.plan) == 1 for trial in tried)
    assert study.settings.trials == 1000 and study.settings.most_trials is None


@pytest.mark.slow
def test_a_new_strategy_gets_the_trials_scores_and_repeats_that_it_asks_for(search_by):
    events: list[Any] = []
    study = search_by(Scored, options={"criterion": "taylor"}, callbacks=[events.append])
    assert study.settings.trials == 2
    stages = [event.fields["stage"] for event in events if event.kind == "stage"]
    assert "proxies" in stages and "supernet" not in stages
    repeated = [e for e in events if e.kind == "repeat-of-finalist" and e.fields["seed"] == 1]
    assert {e.fields["number"] for e in repeated} == {0, 1}
    with pytest.raises(ConfigError, match=r"Known: criterion\."):
        check_options("new", {"criteria": "taylor"})


def test_nothing_outside_the_strategies_compares_with_the_name_of_one():
    folder = Path(autotune.__file__).parent
    names = "|".join(STRATEGIES.names())
    compared = re.compile(rf"""strategy\W*\s*(==|!=|in|not in)\s*[("'\[{{]+({names})["']""")
    files = [path for path in folder.rglob("*.py") if "strategies" not in path.parts]
    assert not [str(path) for path in files if compared.search(path.read_text())]
    assert compared.search('if settings.strategy == "policy":')
