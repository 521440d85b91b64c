"""Read-only access to a stored study: its trials, stages and baselines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, TypeVar

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from autotune.errors import AutotuneError, RunError, brief
from autotune.study.cached_storage import uncollected
from autotune.study.run_folder import RunFolder
from autotune.study.stages import (
    BASELINE,
    BEGUN_BASELINE,
    COMPARED,
    FINAL,
    POLICY,
    PREPARATION,
    PREPARING,
    PROBE_REPEAT,
    REPEAT,
    SESSION,
    TIMINGS,
    Baseline,
    Compared,
    Final,
    PolicyStage,
    Preparation,
    Repeat,
)
from autotune.study.storage import damaged_study, is_damaged, no_study, open_reader, open_storage
from autotune.study.trial_record import (
    TrialRecord,
    problem_from_json,
    read_trial,
)

T = TypeVar("T")

STUDY_NAME, STUDY_FORMAT = "autotune", 1
"""Name and format of the stored study; another format is refused."""


class Records:
    """Trials, stages and baselines of a stored study; raises `RunError` if there is none."""

    def __init__(
        self, folder: RunFolder, storage: str | None, *, is_writable: bool = False
    ) -> None:
        self.folder = folder
        opened = (open_storage if is_writable else open_reader)(folder, storage)
        self.storage = self._opened(opened, storage or str(folder.database))
        self.study = optuna.load_study(study_name=STUDY_NAME, storage=self.storage)
        _check_format(self.attribute("format"), folder)
        if self.attribute("problem") is None:  # it was killed while its study was created
            raise no_study(storage or str(folder.database))
        self.problem = _parsed(problem_from_json, self.attribute("problem"))
        self._ended: dict[int, TrialRecord | None] = {}

    def _opened(self, storage: BaseStorage, where: str) -> BaseStorage:
        """Storage to read from; raises `RunError` if it holds no study."""
        _load(storage, where)
        return storage

    @property
    def identity(self) -> Mapping[str, Any]:
        """Fingerprint, data digest and settings, in which a resumed search must be equal."""
        return _parsed(_mapping, self.attribute("identity"))

    @property
    def seed(self) -> int:
        """Seed of the study's trials; their repeats use the seeds after it."""
        return _parsed(lambda identity: int(identity.get("seed", 0)), self.identity)

    @property
    def metric(self) -> str:
        """Name of the metric that is maximised."""
        return _parsed(lambda identity: str(identity["metric"]), self.identity)

    @property
    def preparation(self) -> Preparation | None:
        """Whether normalisation statistics were re-estimated; None before that is decided."""
        return self._one(PREPARATION, Preparation.from_json)

    @property
    def baselines(self) -> dict[str, Baseline]:
        """Name → baseline, for those that have run."""
        stored = self.attributes(BASELINE)
        return {name: _parsed(Baseline.from_json, data) for name, data in stored.items()}

    def begun_baseline(self, name: str) -> Baseline | None:
        """Baseline that the preparation ran at the middle and highest rate, not the lowest."""
        return self._one(f"{BEGUN_BASELINE}:{name}", Baseline.from_json)

    def prepared_baseline(self, name: str) -> Baseline | None:
        """Baseline that the preparation trained to compare; None before it is trained."""
        return self._one(f"{PREPARING}:{name}", Baseline.from_json)

    @property
    def session_seconds(self) -> list[float]:
        """Wall-clock seconds of each session."""
        return [_parsed(_seconds, seconds) for seconds in self.attributes(SESSION).values()]

    @property
    def session_timings(self) -> list[dict[str, float]]:
        """Stage → seconds, for each session."""
        stored = self.attributes(TIMINGS).values()
        return [{k: _parsed(_seconds, v) for k, v in _parsed(_mapping, s).items()} for s in stored]

    def repeats(self, number: int) -> dict[int, Repeat]:
        """Seed → repeat of a trial."""
        stored = self.attributes(f"{REPEAT}:{number}")
        return {int(seed): _parsed(Repeat.from_json, data) for seed, data in stored.items()}

    @property
    def all_repeats(self) -> dict[str, Repeat]:
        """`NUMBER:SEED` → repeat, for all trials."""
        stored = self.attributes(REPEAT)
        return {key: _parsed(Repeat.from_json, data) for key, data in stored.items()}

    @property
    def probe_repeats(self) -> dict[int, Repeat]:
        """Seed → linear probe, for seeds other than the study's."""
        stored = self.attributes(PROBE_REPEAT)
        return {int(seed): _parsed(Repeat.from_json, data) for seed, data in stored.items()}

    @property
    def policy_stage(self) -> PolicyStage | None:
        """Outcome of learning a policy; None for other strategies and before it is learned."""
        return self._one(POLICY, PolicyStage.from_json)

    @property
    def final(self) -> Final | None:
        """Result of the search; None before it has ended."""
        return self._one(FINAL, Final.from_json)

    @property
    def compared(self) -> dict[tuple[str, int], Compared]:
        """(name, seed) → recipe that `compare` has run."""
        keys = {key: key.rpartition(":") for key in self.attributes(COMPARED)}
        stored = self.attributes(COMPARED)
        return {
            (n, int(seed)): _parsed(Compared.from_json, stored[k])
            for k, (n, _, seed) in keys.items()
        }

    def _one(self, name: str, read: Callable[[Mapping[str, Any]], T]) -> T | None:
        data = self.attribute(name)
        return None if data is None else _parsed(read, data)

    def attribute(self, name: str) -> Any:
        """JSON value of a study attribute; None if it is not written."""
        return self._written().get(name)

    def attributes(self, prefix: str) -> dict[str, Any]:
        """JSON values of all attributes `PREFIX:…`, with the prefix removed from their names."""
        named, start = self._written().items(), prefix + ":"
        return {k.removeprefix(start): v for k, v in named if k.startswith(start)}

    def _written(self) -> Mapping[str, Any]:
        attributes: Mapping[str, Any] = self.study.user_attrs
        return attributes

    @property
    def trials(self) -> list[TrialRecord]:
        """Trials whose plan is known, in the order of their numbers."""
        return [r for t in self.study.get_trials(deepcopy=False) if (r := self._read(t))]

    def _read(self, trial: FrozenTrial) -> TrialRecord | None:
        """Record of a trial; finished trials are parsed only once."""
        if trial.number in self._ended:
            return self._ended[trial.number]
        record = _parsed(lambda stored: read_trial(self.problem, stored), trial)
        if trial.state.is_finished():
            self._ended[trial.number] = record
        return record

    def ranked(self) -> list[TrialRecord]:
        """Complete trials without repeats, the best first."""
        complete = [r for r in self.trials if r.is_complete and r.repeat_of is None]
        return sorted(complete, key=TrialRecord.rank)


class Snapshot(Records):
    """Study as it was at the first access: attributes and trials are read once."""

    def _written(self) -> Mapping[str, Any]:
        return self._attributes

    @cached_property
    def _attributes(self) -> Mapping[str, Any]:
        return super()._written()

    @property
    def trials(self) -> list[TrialRecord]:
        """Trials whose plan was known then, in the order of their numbers."""
        return self._trials

    @cached_property
    def _trials(self) -> list[TrialRecord]:
        with uncollected():
            return super().trials


def _parsed(read: Callable[[Any], T], data: Any) -> T:
    """What `read` makes of a stored value; raises `RunError` if it cannot have been written."""
    try:
        return read(data)
    except AutotuneError:
        raise
    except (LookupError, ArithmeticError, RecursionError) as error:
        raise damaged_study(error) from error
    except Exception as error:
        if is_damaged(error):
            raise damaged_study(error) from error
        raise


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"not seconds but {brief(repr(value))}")
    return value


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"not a mapping but {type(value).__name__}")
    return value


def _check_format(version: Any, folder: RunFolder) -> None:
    """Raise `RunError` for a study of another format; one without a number has format 1."""
    if version not in (None, STUDY_FORMAT):
        raise RunError(
            f"This version reads studies of format {STUDY_FORMAT}, {folder.path} has format "
            f"{version}. "
            "Use the version of autotune that began it; config.yaml starts it anew."
        )


def _load(storage: optuna.storages.BaseStorage, where: str) -> optuna.Study:
    try:
        return optuna.load_study(study_name=STUDY_NAME, storage=storage)
    except KeyError as error:
        raise no_study(where) from error
