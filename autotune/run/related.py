"""Another run of the same training, of which a search uses what was learned there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autotune.errors import ConfigError
from autotune.run.settings import read_settings
from autotune.study.reader import Records
from autotune.study.run_folder import RunFolder

_OF_TRAINING = (
    "backbone's fingerprint",
    "data",
    *("epochs", "batch_size", "augment", "metric", "folds", "seed", "keep_head"),
)


def open_run(run: str, option: str, identity: Mapping[str, Any], statistics: str) -> Records:
    """The records of `run`, named by an option; `ConfigError` where its training was another.

    `statistics` is `on` where the backbone's normalisation statistics were re-estimated.
    """
    folder = RunFolder.existing(run)
    records = Records(folder, read_settings({}, file=str(folder.config)).storage)
    stored = {**records.identity, "statistics": _statistics(records)}
    current = {**identity, "statistics": statistics}
    differs = [key for key in (*_OF_TRAINING, "statistics") if stored.get(key) != current.get(key)]
    if differs:
        raise ConfigError(
            f"{option} needs a run of the same training; {folder.path} differs in "
            f"{', '.join(differs)}. Make another one, or leave {option} out."
        )
    return records


def _statistics(records: Records) -> str | None:
    return records.preparation.bnstats if records.preparation else None
