"""The contract of every strategy."""

from __future__ import annotations

from collections import Counter
from itertools import product

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import Trial, TrialState

from autotune.errors import ConfigError, PlanError, UnknownName
from autotune.problem.budget import Budget, Cost
from autotune.problem.grids import Grids
from autotune.problem.knapsack import best_plan
from autotune.problem.plan import Choice, Plan
from autotune.problem.problem import Problem
from autotune.problem.sampling import seed_of
from autotune.study.strategies import STRATEGIES, check_options
from autotune.study.strategies.base import hyperparameters_of, plan_of, search_space
from autotune.study.strategies.greedy import EPSILON, GreedySampler
from autotune.study.strategies.nsga2 import POPULATION


def study_of(name: str, problem: Problem, grids: Grids, *, seed: int = 0) -> optuna.Study:
    sampler = STRATEGIES.load(name)(problem, grids, seed=seed)
    return optuna.create_study(sampler=sampler, direction="maximize")


def value_of(trial: Trial) -> float:
    return seed_of(*sorted(map(str, trial.params.items()))) / 2**32


def worth(plan: Plan) -> float:
    """What units add to each other's value, some of them much; no two plans are worth the same."""
    gains = [
        0.3 * len(c.label) * seed_of(unit, c.label) / 2**36 for unit, c in plan.choices.items()
    ]
    return 1 - 1 / (1 + 3 * sum(gains)) + seed_of(plan.digest) / 2**44


def ran(study: optuna.Study, problem: Problem, grids: Grids, n: int) -> list[Trial]:
    space = search_space(problem, grids)
    trials = []
    for _ in range(n):
        trials.append(study.ask(space))
        study.tell(trials[-1], value_of(trials[-1]))
    return trials


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Up to six units of random widths; the budget lets through anything from nothing to all."""
    widths = draw(st.lists(st.integers(1, 50), min_size=1, max_size=6))
    choices = [Choice.of("lowrank", rank=r) for r in (1, 3)] + [Choice.of("scale")]
    candidates = {
        f"unit{i}": {c: Cost(n := width * (j + 1), n, n) for j, c in enumerate(choices)}
        for i, width in enumerate(widths)
    }
    return Problem.of(candidates, Budget(draw(st.integers(1, 4 * sum(widths))), 10**6))


@pytest.fixture(scope="session")
def small() -> Problem:
    """Few plans: three units of three choices."""
    widths = {"first": 10, "second": 20, "third": 30}
    candidates = {
        unit: {Choice.of("lowrank", rank=r): Cost(r * n, r * n, 4 * r * n) for r in (1, 2)}
        for unit, n in widths.items()
    }
    return Problem.of(candidates, Budget(60, 1000))


class StrategyContract:
    """What holds for every strategy; each fills in its name."""

    name: str
    has_chance = True
    """Whether another seed proposes otherwise."""

    def test_stays_within_the_budget(self, problem, grids):
        study = study_of(self.name, problem, grids)
        plans = [plan_of(problem, t.params) for t in ran(study, problem, grids, 30)]
        assert all(problem.fits(plan) for plan in plans)
        assert len({plan.digest for plan in plans}) > 10

    def test_puts_the_whole_space_into_the_parameters(self, problem, grids):
        study = study_of(self.name, problem, grids)
        for trial in ran(study, problem, grids, 15):
            assert trial.params.keys() == search_space(problem, grids).keys()
            assert hyperparameters_of(trial.params).keys() == grids.keys()
            assert all(v in grids[k] for k, v in hyperparameters_of(trial.params).items())

    def test_is_a_function_of_the_seed_and_the_finished_trials(self, problem, grids):
        first, second, other = (study_of(self.name, problem, grids, seed=s) for s in (3, 3, 4))
        params = [[t.params for t in ran(s, problem, grids, 15)] for s in (first, second, other)]
        assert params[0] == params[1]
        assert (params[0] != params[2]) is self.has_chance

    def test_proposes_the_same_from_a_copied_record(self, problem, grids):
        study = study_of(self.name, problem, grids)
        ran(study, problem, grids, 12)
        copied = study_of(self.name, problem, grids)
        copied.add_trials(study.trials)
        space = search_space(problem, grids)
        assert copied.ask(space).params == study.ask(space).params

    def test_survives_failed_pruned_and_duplicate_trials(self, problem, grids):
        study, space = study_of(self.name, problem, grids), search_space(problem, grids)
        ran(study, problem, grids, 11)
        study.tell(study.ask(space), state=TrialState.FAIL)
        study.tell(study.ask(space), state=TrialState.PRUNED)
        halfway = study.ask(space)
        halfway.report(0.5, 1)
        study.tell(halfway, state=TrialState.PRUNED)
        study.add_trials([study.trials[0]] * 5)
        assert problem.fits(plan_of(problem, study.ask(space).params))

    def test_a_plan_is_not_asked_for_unit_by_unit(self, problem, grids):
        sampler = study_of(self.name, problem, grids).sampler
        trial = optuna.create_study(sampler=sampler).ask()
        with pytest.raises(PlanError, match="as a whole"):
            trial.suggest_categorical("unit:late/other", ["frozen", "scale"])

    def test_a_foreign_hyperparameter_may_be_asked_for_too(self, problem, grids):
        trial = study_of(self.name, problem, grids).ask(search_space(problem, grids))
        assert 0 <= trial.suggest_float("dropout", 0, 0.5) <= 0.5


class DecodedContract(StrategyContract):
    """Laws of strategies whose proposals are decoded."""

    def test_keeps_what_it_proposed_before_decoding(self, problem, grids):
        study, changed = study_of(self.name, problem, grids), 0
        for _ in range(15):
            trial = study.ask(search_space(problem, grids))
            proposed = study.sampler.proposed
            assert proposed.keys() == trial.params.keys()
            changed += proposed != trial.params
            study.tell(trial, value_of(trial))
        assert changed, "this budget is too small for most proposals"


class TestRandom(DecodedContract):
    name = "random"


class TestTpe(DecodedContract):
    name = "tpe"

    def test_learns_from_the_values(self, problem, grids):
        """Where rank 4 in one unit is all that counts, it is proposed far more often than not."""
        tally = {}
        for name in ("tpe", "random"):
            study, space = study_of(name, problem, grids), search_space(problem, grids)
            for _ in range(60):
                trial = study.ask(space)
                study.tell(trial, float(trial.params["unit:middle"] == "lowrank-4"))
            tally[name] = sum(t.value for t in study.trials[20:])
        assert tally["tpe"] > 2 * tally["random"]


class TestGp(DecodedContract):
    name = "gp"


class TestNsga2(DecodedContract):
    name = "nsga2"

    def test_later_generations_are_better_than_the_first(self, problem, grids):
        study, space = study_of(self.name, problem, grids), search_space(problem, grids)
        for _ in range(5 * POPULATION):
            trial = study.ask(space)
            plan = plan_of(problem, trial.params)
            study.tell(trial, sum("lowrank" in plan[unit].names for unit in plan))
        values = [t.value for t in study.trials]
        assert sum(values[-POPULATION:]) > 1.5 * sum(values[:POPULATION])


class TestQmc(DecodedContract):
    name = "qmc"

    def test_takes_every_choice_of_a_unit_equally_often(self, problem, grids):
        study = study_of(self.name, problem, grids)
        tally = Counter()
        for _ in range(48):
            study.ask(search_space(problem, grids))
            tally[study.sampler.proposed["unit:stem"]] += 1
        assert len(tally) == 6 and max(tally.values()) - min(tally.values()) <= 2


class TestBruteForce(StrategyContract):
    name = "bruteforce"
    has_chance = False

    def test_proposes_every_plan_once_and_ends(self, small, grids):
        """In any loop that asks for the whole space at once."""
        study, space = study_of(self.name, small, grids), search_space(small, grids)
        plans = []
        while not study.sampler.is_idle(study):
            trial = study.ask(space)
            plans.append(plan_of(small, trial.params))
            study.tell(trial, value_of(trial))
        every = product(*(small.choices[unit] for unit in small.units))
        listed = [Plan(dict(zip(small.units, chosen, strict=True))) for chosen in every]
        fitting = [plan for plan in listed if small.fits(plan)]
        assert sorted(p.digest for p in plans) == sorted(p.digest for p in fitting)
        assert plans == sorted(plans, key=lambda plan: plan.digest)

    def test_a_space_that_is_too_large_is_refused(self, problem, grids, monkeypatch):
        monkeypatch.setattr("autotune.study.strategies.bruteforce.MOST", 100)
        with pytest.raises(PlanError, match="at most 100 plans"):
            study_of(self.name, problem, grids).ask(search_space(problem, grids))


class TestGreedy(StrategyContract):
    name = "greedy"
    has_chance = False

    def test_picks_what_a_plain_loop_picks(self, problem, grids):
        study, space = study_of(self.name, problem, grids), search_space(problem, grids)
        begun = []
        while not study.sampler.is_idle(study):
            trial = study.ask(space)
            plan = plan_of(problem, trial.params)
            begun.append(str(plan))
            study.tell(trial, worth(plan))
        picked, best, expected = Plan(), worth(Plan()), [str(Plan())]
        while True:
            offers = [
                plan
                for unit in problem.units
                if unit not in picked.choices
                for choice in problem.choices[unit][1:]
                if problem.fits(plan := Plan({**picked.choices, unit: choice}))
            ]
            expected += map(str, offers)
            if not offers or worth(pick := max(offers, key=worth)) < best - EPSILON:
                break
            picked, best = pick, max(best, worth(pick))
        assert begun == expected
        assert len(picked) >= 2

    @pytest.mark.parametrize("workers", [2, 3, 7])
    def test_picks_the_same_however_many_run_at_once(self, problem, grids, workers):
        """Also where trials end in another order; what it guessed ahead changes no pick."""
        alone, space = study_of(self.name, problem, grids), search_space(problem, grids)
        while not alone.sampler.is_idle(alone):
            trial = alone.ask(space)
            alone.tell(trial, worth(plan_of(problem, trial.params)))
        crowd, running = study_of(self.name, problem, grids), []
        while running or not crowd.sampler.is_idle(crowd):
            while len(running) < workers and not crowd.sampler.is_idle(crowd):
                running.append(crowd.ask(space))
            trial = running.pop(seed_of(workers, len(crowd.trials), len(running)) % len(running))
            crowd.tell(trial, worth(plan_of(problem, trial.params)))
        picks = [
            [max(stage, key=worth) for stage in s.sampler.rounds(s.sampler.begun(s), s)]
            for s in (alone, crowd)
        ]
        assert picks[0] == picks[1]
        assert len(crowd.trials) < 2 * len(alone.trials)

    def test_the_papers_rule_ends_when_a_round_gains_too_little(self, problem, grids):
        rounds = {}
        for epsilon in (0.001, 0.5):
            sampler = GreedySampler(problem, grids, seed=0, rule="gain", epsilon=epsilon)
            study = optuna.create_study(sampler=sampler, direction="maximize")
            while not sampler.is_idle(study):
                trial = study.ask(search_space(problem, grids))
                study.tell(trial, worth(plan_of(problem, trial.params)))
            rounds[epsilon] = len([*sampler.rounds(sampler.begun(study), study)])
        assert rounds[0.5] == 2 < rounds[0.001]

    def test_backward_it_takes_units_away_from_a_full_plan(self, problem, grids):
        sampler = GreedySampler(problem, grids, seed=0, direction="backward")
        study = optuna.create_study(sampler=sampler, direction="maximize")
        plans = []
        for _ in range(6):
            trial = study.ask(search_space(problem, grids))
            plans.append(plan_of(problem, trial.params))
            study.tell(trial, worth(plans[-1]))
        assert problem.fits(plans[0]) and len(plans[0]) >= 3
        sizes = [len(plan) for plan in plans[1 : 1 + len(plans[0])]]
        assert sizes == [len(plans[0]) - 1] * len(plans[0])

    def test_gain_for_its_cost_prefers_the_cheap(self, problem, grids):
        firsts = {}
        for criterion in ("gain", "gain-per-cost"):
            sampler = GreedySampler(problem, grids, seed=0, criterion=criterion)
            study = optuna.create_study(sampler=sampler, direction="maximize")
            for _ in range(40):
                trial = study.ask(search_space(problem, grids))
                study.tell(trial, worth(plan_of(problem, trial.params)))
            rounds = sampler.rounds(sampler.begun(study), study)
            _, _, second = next(rounds), next(rounds), next(rounds)
            firsts[criterion] = set.intersection(*(set(plan.choices.items()) for plan in second))
        costs = {k: problem.cost(Plan(dict(picked))).parameters for k, picked in firsts.items()}
        assert costs["gain-per-cost"] < costs["gain"]


class TestProxy(StrategyContract):
    name = "proxy"

    def test_the_first_plan_is_the_best_by_its_scores(self, problem, grids):
        scores = {("late", "lowrank-4"): 3.0, ("stem", "scale"): 1.0}
        sampler = STRATEGIES.load(self.name)(problem, grids, seed=0, scores=scores)
        params = optuna.create_study(sampler=sampler).ask(search_space(problem, grids)).params
        assert plan_of(problem, params) == best_plan(problem, scores)


class TestPolicy(StrategyContract):
    name = "policy"

    def test_finds_what_pays_within_few_trials(self, problem, grids):
        """Where rank 4 in one unit is all that counts, and in any study: values may be anything."""
        for sign, scale in ((1, 1.0), (-1, 1.0), (1, 500.0)):
            sampler = STRATEGIES.load(self.name)(problem, grids, seed=0)
            direction = "maximize" if sign > 0 else "minimize"
            study = optuna.create_study(sampler=sampler, direction=direction)
            space = search_space(problem, grids)
            for _ in range(25):
                trial = study.ask(space)
                study.tell(trial, sign * scale * (trial.params["unit:middle"] == "lowrank-4"))
            assert sum(t.params["unit:middle"] == "lowrank-4" for t in study.trials[10:]) >= 10

    def test_the_first_plan_is_the_best_by_its_scores_and_rates_begin_where_they_say(
        self, problem, grids
    ):
        scores = {("late", "lowrank-4"): 3.0, ("stem", "scale"): 1.0, ("lr:lowrank", "0.03"): 1.0}
        sampler = STRATEGIES.load(self.name)(problem, grids, seed=0, scores=scores)
        params = optuna.create_study(sampler=sampler).ask(search_space(problem, grids)).params
        assert params["unit:late"] == "lowrank-4" and params["unit:stem"] == "scale"
        assert params["lr:lowrank"] == 0.03 and params["lr:scale"] == 0.01

    def test_a_wrong_prior_is_overcome(self, problem, grids):
        scores = {("late", "lowrank-4"): 3.0, ("middle", "lowrank-4"): 0.1}
        sampler = STRATEGIES.load(self.name)(problem, grids, seed=0, scores=scores)
        study = optuna.create_study(sampler=sampler, direction="maximize")
        space = search_space(problem, grids)
        for _ in range(30):
            trial = study.ask(space)
            study.tell(trial, 0.5 + 0.1 * (trial.params["unit:middle"] == "lowrank-4"))
        assert sum(t.value > 0.5 for t in study.trials[15:]) >= 12

    def test_no_training_is_proposed_twice_while_others_are_left(self, problem, grids):
        study = study_of(self.name, problem, grids)
        params = [str(sorted(t.params.items())) for t in ran(study, problem, grids, 40)]
        assert len({*params}) == 40


@pytest.mark.slow
@pytest.mark.parametrize("name", STRATEGIES.names())
@settings(max_examples=15, deadline=None, derandomize=True)
@given(problem=problems(), seed=st.integers(0, 2**16))
def test_stays_within_the_budget_of_any_problem(name, problem, seed):
    grids = {"lr:head": (0.01, 0.1)}
    study = study_of(name, problem, grids, seed=seed)
    for trial in ran(study, problem, grids, 13):
        assert problem.fits(plan_of(problem, trial.params))


def test_options_of_a_strategy_are_checked_and_typed():
    options = check_options("greedy", {"epsilon": "0.02", "direction": "backward"})
    assert options == {"epsilon": 0.02, "direction": "backward"}
    with pytest.raises(ConfigError, match="direction of greedy must be valid, 'up' is not"):
        check_options("greedy", {"direction": "up"})
    with pytest.raises(ConfigError, match="Did you mean 'epsilon'"):
        check_options("greedy", {"epsilom": 1})
    with pytest.raises(ConfigError, match="The strategy tpe takes no options, got 'epsilon'"):
        check_options("tpe", {"epsilon": 1})


def test_an_unknown_strategy_is_shown_the_nearest():
    with pytest.raises(UnknownName, match="Did you mean 'random'"):
        STRATEGIES.check("randon")


def test_a_unit_without_a_choice_is_no_parameter(grids):
    """A categorical of one label would only be noise to a sampler."""
    candidates = {"small": {Choice.of("scale"): Cost(5, 5, 20)}, "large": {}}
    problem = Problem.of(candidates, Budget(10, 100))
    assert [k for k in search_space(problem, grids) if k.startswith("unit:")] == ["unit:small"]
