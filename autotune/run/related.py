"""Runs of the same training, whose measurements or trials another search uses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autotune.errors import ConfigError
from autotune.run.known_runs import allowed
from autotune.run.settings import read_settings
from autotune.study.reader import Records
from autotune.study.run_folder import RunFolder

_TRAINING_KEYS = (
    "backbone's fingerprint",
    "data",
    *("epochs", "batch_size", "augment", "metric", "folds", "seed", "keep_head"),
)
"""Keys of a run's identity that change the values of its trials, so that both must agree."""


def open_run(run: str, option: str, identity: Mapping[str, Any], statistics: str | None) -> Records:
    """Open the run that `option` names; `ConfigError` if its training differs from `identity`.

    `statistics` is `on` if the backbone's normalisation statistics were re-estimated, `off` if they
    were not, and None before that is decided, when they are not compared.
    """
    folder = RunFolder.existing(run)
    settings = read_settings({}, file=str(folder.config))
    records = Records(folder, allowed(folder, settings, "storage"))
    stored = {**records.identity, "statistics": _statistics(records)}
    current = {**identity, "statistics": statistics or stored["statistics"]}
    differs = [
        key for key in (*_TRAINING_KEYS, "statistics") if stored.get(key) != current.get(key)
    ]
    if differs:
        raise ConfigError(
            f"{option} needs a run of the same training; {folder.path} differs in "
            f"{', '.join(differs)}. Name a run that does not, or leave {option} out."
        )
    return records


def _statistics(records: Records) -> str | None:
    return records.preparation.bnstats if records.preparation else None
