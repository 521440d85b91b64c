"""The owner's view of a storage: it is read once, then only written.

Optuna's cache reads every unfinished trial again at every question, since others might have changed
it; a driver is the only writer, and has a thousand of them.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

_CHANGING = ("params", "distributions", "intermediate_values", "user_attrs", "system_attrs")
"""Of a trial that has not ended."""


@contextmanager
def uncollected() -> Iterator[None]:
    """Without the garbage collector, which would look again and again at a record that stays."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class Mirror(BaseStorage):
    """One study of a storage; what is written goes there first, then into memory.

    Trials are replaced, never changed, so that who has one keeps it as it was.
    """

    def __init__(self, behind: BaseStorage, name: str) -> None:
        self.behind = behind
        self.study_id = behind.get_study_id_from_name(name)
        self.name, self.directions = name, behind.get_study_directions(self.study_id)
        self._user_attrs = behind.get_study_user_attrs(self.study_id)
        self._system_attrs = behind.get_study_system_attrs(self.study_id)
        with uncollected():
            self._trials = behind.get_all_trials(self.study_id, deepcopy=False)
        self._number = {trial._trial_id: trial.number for trial in self._trials}
        self._unfinished = {t.number for t in self._trials if not t.state.is_finished()}

    # the study

    def create_new_study(
        self, directions: Sequence[StudyDirection], study_name: str | None = None
    ) -> int:
        raise NotImplementedError("A mirror is of one study.")

    def delete_study(self, study_id: int) -> None:
        raise NotImplementedError("A mirror is of one study.")

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        self.behind.set_study_user_attr(study_id, key, value)
        self._user_attrs = {**self._user_attrs, key: value}

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self.behind.set_study_system_attr(study_id, key, value)
        self._system_attrs = {**self._system_attrs, key: value}

    def get_study_id_from_name(self, study_name: str) -> int:
        if study_name != self.name:
            raise KeyError(study_name)
        return self.study_id

    def get_study_name_from_id(self, study_id: int) -> str:
        return self.name

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        return self.directions

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        return self._user_attrs

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return self._system_attrs

    def get_all_studies(self) -> Any:
        return self.behind.get_all_studies()

    # trials

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        trial_id = self.behind.create_new_trial(study_id, template_trial)
        self._refresh(trial_id)
        return trial_id

    def set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
    ) -> None:
        self.behind.set_trial_param(trial_id, param_name, param_value_internal, distribution)
        value = distribution.to_external_repr(param_value_internal)
        self._change(trial_id, "params", param_name, value)
        self._change(trial_id, "distributions", param_name, distribution)

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        is_new = self.behind.set_trial_state_values(trial_id, state, values)
        self._refresh(trial_id)
        return is_new

    def set_trial_intermediate_value(
        self, trial_id: int, step: int, intermediate_value: float
    ) -> None:
        self.behind.set_trial_intermediate_value(trial_id, step, intermediate_value)
        self._change(trial_id, "intermediate_values", step, intermediate_value)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        self.behind.set_trial_user_attr(trial_id, key, value)
        self._change(trial_id, "user_attrs", key, value)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self.behind.set_trial_system_attr(trial_id, key, value)
        self._change(trial_id, "system_attrs", key, value)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """Its own for who asks: Optuna's live trials write into what they got."""
        trial = self._trials[self._number[trial_id]]
        if trial.state.is_finished():
            return trial
        own = copy.copy(trial)
        for name in _CHANGING:
            setattr(own, name, dict(getattr(trial, name)))
        return own

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        if not 0 <= trial_number < len(self._trials):
            raise KeyError(f"There is no trial {trial_number}.")
        return self._trials[trial_number]._trial_id

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        if states is None:
            found = list(self._trials)
        elif not any(state in states for state in TrialState if state.is_finished()):
            unfinished = (self._trials[number] for number in sorted(self._unfinished))
            found = [trial for trial in unfinished if trial.state in states]
        else:
            found = [trial for trial in self._trials if trial.state in states]
        return copy.deepcopy(found) if deepcopy else found

    def get_n_trials(
        self, study_id: int, state: tuple[TrialState, ...] | TrialState | None = None
    ) -> int:
        if state is None:
            return len(self._trials)
        states = state if isinstance(state, tuple) else (state,)
        return len(self.get_all_trials(study_id, deepcopy=False, states=states))

    def _refresh(self, trial_id: int) -> None:
        """Read one trial again: it is new, or its state has changed."""
        trial = self.behind.get_trial(trial_id)
        for missed in range(len(self._trials), trial.number):  # written, but not said to be
            missed_id = self.behind.get_trial_id_from_study_id_trial_number(self.study_id, missed)
            self._put(self.behind.get_trial(missed_id))
        self._put(trial)

    def _put(self, trial: FrozenTrial) -> None:
        self._number[trial._trial_id] = trial.number
        self._trials[trial.number : trial.number + 1] = [trial]
        if trial.state.is_finished():
            self._unfinished.discard(trial.number)
        else:
            self._unfinished.add(trial.number)

    def _change(self, trial_id: int, what: str, key: Any, value: Any) -> None:
        trial = copy.copy(self._trials[self._number[trial_id]])
        setattr(trial, what, {**getattr(trial, what), key: value})
        self._put(trial)
