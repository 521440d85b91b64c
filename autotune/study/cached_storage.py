"""In-memory mirror of a study for its only writer.

Optuna's cache reads every unfinished trial again on every access, since other processes might have
changed it. A driver is the only writer of its study, which may have a thousand such trials, so it
reads the study once and afterwards only writes.
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
"""Attributes of an unfinished trial that its owner may change."""


@contextmanager
def uncollected() -> Iterator[None]:
    """Disable the garbage collector, which would repeatedly scan trials that all stay alive."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class Mirror(BaseStorage):
    """One study of a storage; writes go to the storage first, then to memory.

    Trials are replaced, never modified, so a trial that was read stays as it was.
    """

    def __init__(self, storage: BaseStorage, name: str) -> None:
        self._storage = storage
        self.study_id = storage.get_study_id_from_name(name)
        self.name, self.directions = name, storage.get_study_directions(self.study_id)
        self._user_attrs = storage.get_study_user_attrs(self.study_id)
        self._system_attrs = storage.get_study_system_attrs(self.study_id)
        with uncollected():
            self._trials = storage.get_all_trials(self.study_id, deepcopy=False)
        self._number = {trial._trial_id: trial.number for trial in self._trials}
        self._unfinished = {t.number for t in self._trials if not t.state.is_finished()}

    # the study

    def create_new_study(
        self, directions: Sequence[StudyDirection], study_name: str | None = None
    ) -> int:
        raise NotImplementedError("A mirror holds exactly one study.")

    def delete_study(self, study_id: int) -> None:
        raise NotImplementedError("A mirror holds exactly one study.")

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        self._storage.set_study_user_attr(study_id, key, value)
        self._user_attrs = {**self._user_attrs, key: value}

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self._storage.set_study_system_attr(study_id, key, value)
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
        return self._storage.get_all_studies()

    # trials

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        trial_id = self._storage.create_new_trial(study_id, template_trial)
        self._refresh(trial_id)
        return trial_id

    def set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
    ) -> None:
        self._storage.set_trial_param(trial_id, param_name, param_value_internal, distribution)
        value = distribution.to_external_repr(param_value_internal)
        self._change(trial_id, "params", param_name, value)
        self._change(trial_id, "distributions", param_name, distribution)

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        is_new = self._storage.set_trial_state_values(trial_id, state, values)
        self._refresh(trial_id)
        return is_new

    def set_trial_intermediate_value(
        self, trial_id: int, step: int, intermediate_value: float
    ) -> None:
        self._storage.set_trial_intermediate_value(trial_id, step, intermediate_value)
        self._change(trial_id, "intermediate_values", step, intermediate_value)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._storage.set_trial_user_attr(trial_id, key, value)
        self._change(trial_id, "user_attrs", key, value)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._storage.set_trial_system_attr(trial_id, key, value)
        self._change(trial_id, "system_attrs", key, value)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """Trial with the ID `trial_id`.

        Unfinished trials are copied, since `optuna.Trial` modifies the trial that it reads.
        """
        trial = self._trials[self._number[trial_id]]
        if trial.state.is_finished():
            return trial
        copied = copy.copy(trial)
        for name in _CHANGING:
            setattr(copied, name, dict(getattr(trial, name)))
        return copied

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
            trials = list(self._trials)
        elif not any(state in states for state in TrialState if state.is_finished()):
            unfinished = (self._trials[number] for number in sorted(self._unfinished))
            trials = [trial for trial in unfinished if trial.state in states]
        else:
            trials = [trial for trial in self._trials if trial.state in states]
        return copy.deepcopy(trials) if deepcopy else trials

    def get_n_trials(
        self, study_id: int, state: tuple[TrialState, ...] | TrialState | None = None
    ) -> int:
        if state is None:
            return len(self._trials)
        states = state if isinstance(state, tuple) else (state,)
        return len(self.get_all_trials(study_id, deepcopy=False, states=states))

    def _refresh(self, trial_id: int) -> None:
        """Read a trial from the storage because it is new or its state has changed."""
        trial = self._storage.get_trial(trial_id)
        # If a trial was created but the database's reply was lost, its number is missing here.
        for missed in range(len(self._trials), trial.number):
            missed_id = self._storage.get_trial_id_from_study_id_trial_number(self.study_id, missed)
            self._put(self._storage.get_trial(missed_id))
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
