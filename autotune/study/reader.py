"""Reading a stored study: its trials, stages and references. Nothing is written."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from autotune.errors import RunError
from autotune.study.cached_storage import uncollected
from autotune.study.run_folder import RunFolder
from autotune.study.storage import open_storage
from autotune.study.trial_record import (
    TrialRecord,
    problem_from_json,
    read_trial,
)

STUDY_NAME, STUDY_FORMAT = "autotune", 1
"""Of the stored study; another format is refused."""


class Records:
    """Reading a study: its trials, stages and references. Nothing is written."""

    def __init__(self, folder: RunFolder, storage: str | None) -> None:
        self.folder = folder
        self.storage = self._opened(open_storage(folder, storage), storage or str(folder.database))
        self.study = optuna.load_study(study_name=STUDY_NAME, storage=self.storage)
        _check_format(self.attribute("format"), folder)
        self.problem = problem_from_json(self.attribute("problem"))
        self._ended: dict[int, TrialRecord | None] = {}

    def _opened(self, storage: BaseStorage, where: str) -> BaseStorage:
        """The storage to be looked at; `RunError` where it holds no study."""
        _load(storage, where)
        return storage

    @property
    def seed(self) -> int:
        """Of the study's trials; their repeats have the next ones."""
        return int(self.attribute("identity").get("seed", 0))

    def attribute(self, name: str) -> Any:
        """The JSON value of an attribute of the study, None when it is not written."""
        return self._written().get(name)

    def attributes(self, prefix: str) -> dict[str, Any]:
        """The JSON values of all attributes `PREFIX:…`, the prefix taken off."""
        named, start = self._written().items(), prefix + ":"
        return {k.removeprefix(start): v for k, v in named if k.startswith(start)}

    def _written(self) -> Mapping[str, Any]:
        """All attributes of the study."""
        found: Mapping[str, Any] = self.study.user_attrs
        return found

    @property
    def trials(self) -> list[TrialRecord]:
        """All trials whose plan is known, in the order of their numbers."""
        return [r for t in self.study.get_trials(deepcopy=False) if (r := self._read(t))]

    def _read(self, trial: FrozenTrial) -> TrialRecord | None:
        """One trial; those that ended are read once."""
        if trial.number in self._ended:
            return self._ended[trial.number]
        record = read_trial(self.problem, trial)
        if trial.state.is_finished():
            self._ended[trial.number] = record
        return record

    def ranked(self) -> list[TrialRecord]:
        """Complete trials, the best first, each training once."""
        complete = [r for r in self.trials if r.is_complete and r.repeat_of is None]
        return sorted(complete, key=TrialRecord.rank)


class Snapshot(Records):
    """A study as it stood when it was first asked: everything is read once."""

    def _written(self) -> Mapping[str, Any]:
        return self._attributes

    @cached_property
    def _attributes(self) -> Mapping[str, Any]:
        return super()._written()

    @property
    def trials(self) -> list[TrialRecord]:
        """All trials whose plan was known then, in the order of their numbers."""
        return self._trials

    @cached_property
    def _trials(self) -> list[TrialRecord]:
        with uncollected():
            return super().trials


def _check_format(found: Any, folder: RunFolder) -> None:
    """Before there was a number the format was the first."""
    if found not in (None, STUDY_FORMAT):
        raise RunError(
            f"This version reads studies of format {STUDY_FORMAT}, {folder.path} has format "
            f"{found}. "
            "Use the version of autotune that began it; config.yaml starts it anew."
        )


def _load(storage: optuna.storages.BaseStorage, where: str) -> optuna.Study:
    try:
        return optuna.load_study(study_name=STUDY_NAME, storage=storage)
    except KeyError as error:
        raise RunError(f"A run has a study, {where} holds none. Search again.") from error
