"""The in-memory mirror of a study agrees with its storage."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.trial import FrozenTrial, TrialState

from autotune.study.backends.inline import InlineBackend
from autotune.study.cached_storage import Mirror
from autotune.study.reader import STUDY_NAME, Records
from autotune.study.run_folder import RunFolder
from autotune.study.storage import open_storage

from .table_engine import TableEngine

SPACE = {"x": optuna.distributions.CategoricalDistribution(("a", "b", "c"))}


def fields(trials: list[FrozenTrial]) -> list[Any]:
    return [
        [
            t.number,
            t.state,
            t.params,
            t.distributions,
            t.values,
            t.intermediate_values,
            t.user_attrs,
            t.system_attrs,
            t._trial_id,
            t.datetime_complete,
        ]
        for t in trials
    ]


def test_after_a_search_it_has_what_was_written(folder, driving):
    with driving(trials=8) as driver:
        InlineBackend(TableEngine(fails=("trial 3",))).run(driver)
        mirrored = fields(driver.study.get_trials(deepcopy=False))
        attributes = dict(driver.study.user_attrs)
    fresh = Records(folder, None).study
    assert fields(fresh.get_trials()) == mirrored
    assert fresh.user_attrs == attributes


DEED = st.sampled_from(["ask", "report", "attribute", "complete", "fail", "prune", "system"])


@pytest.mark.slow
@settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(deeds=st.lists(st.tuples(DEED, st.integers(0, 5)), max_size=20))
def test_mirror_and_storage_agree_after_any_sequence_of_calls(tmp_path_factory, deeds):
    at = RunFolder(tmp_path_factory.mktemp("mirror"))
    storage = open_storage(at, None)
    optuna.create_study(study_name=STUDY_NAME, storage=storage)
    mirror = Mirror(storage, STUDY_NAME)
    study = optuna.load_study(study_name=STUDY_NAME, storage=mirror)
    live: list[optuna.Trial] = []
    for deed, n in deeds:
        if deed == "ask":
            live.append(study.ask(dict(SPACE)))
            continue
        if not live:
            continue
        trial = live[n % len(live)]
        if deed == "report":
            trial.report(n / 10, n)
        elif deed == "attribute":
            trial.set_user_attr(f"name {n}", {"value": n})
        elif deed == "system":
            mirror.set_trial_system_attr(trial._trial_id, "key", n)
        else:
            live.remove(trial)
            state = {"complete": TrialState.COMPLETE, "fail": TrialState.FAIL}
            state = state.get(deed, TrialState.PRUNED)
            study.tell(trial.number, n if deed == "complete" else None, state=state)
        study.set_user_attr("last", [deed, n])
    for states in (None, (TrialState.RUNNING,), (TrialState.COMPLETE, TrialState.FAIL)):
        stored = storage.get_all_trials(mirror.study_id, states=states)
        assert fields(study.get_trials(states=states)) == fields(stored)
    assert mirror.get_n_trials(mirror.study_id) == storage.get_n_trials(mirror.study_id)
    assert study.user_attrs == storage.get_study_user_attrs(mirror.study_id)


def test_a_trial_that_was_read_stays_as_it_was(folder):
    mirror = Mirror(open_storage(folder, None), STUDY_NAME)
    study = optuna.load_study(study_name=STUDY_NAME, storage=mirror)
    trial = study.ask(dict(SPACE))
    before = mirror.get_trial(trial._trial_id)
    trial.report(0.5, 1)
    assert before.intermediate_values == {}
    assert mirror.get_trial(trial._trial_id).intermediate_values == {1: 0.5}


def test_a_trial_whose_creation_was_not_confirmed_is_read(folder):
    """The server committed a trial but the answer was lost: the next one has a higher number."""
    storage = open_storage(folder, None)
    mirror = Mirror(storage, STUDY_NAME)
    storage.create_new_trial(mirror.study_id)
    study = optuna.load_study(study_name=STUDY_NAME, storage=mirror)
    assert study.ask().number == 1
    assert [t.number for t in study.get_trials()] == [0, 1]


def test_a_mirror_holds_one_study(folder):
    mirror = Mirror(open_storage(folder, None), STUDY_NAME)
    with pytest.raises(KeyError):
        optuna.load_study(study_name="another", storage=mirror)
    with pytest.raises(NotImplementedError):
        optuna.create_study(study_name="another", storage=mirror)
