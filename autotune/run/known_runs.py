"""Runs that this user began or resumed, with a digest of the addresses that they named.

A run folder may come from others, who do not decide which database or cluster is connected to. So
an address in its `config.yaml` counts if a record in the user's own cache folder has it, too.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from autotune.errors import RunError
from autotune.run.settings import Settings
from autotune.study.database_copy import fold_in
from autotune.study.lease import holder
from autotune.study.run_folder import RunFolder
from autotune.study.storage import readable
from autotune.utils.events import warn
from autotune.utils.files import cache_folder, digest_of, is_trusted, write_whole

ADDRESSES = ("storage", "address")
"""Settings that name a place to connect to."""

HARMLESS = frozenset(("auto", "local"))
"""Addresses that leave the choice to this machine."""


def remember_run(folder: RunFolder, settings: Settings) -> None:
    """Record that this user runs a search in `folder`, with the addresses of its settings."""
    named = {name: _digest(getattr(settings, name)) for name in ADDRESSES}
    record = {"format": 1, "run": str(folder.path.resolve()), **named}
    try:
        write_whole(_record(folder), json.dumps(record, indent=2) + "\n")
    except OSError as error:
        warn(
            f"The run cannot be recorded in {_record(folder).parent} ({error.strerror}), so that "
            "later commands ask for its --storage and --address."
        )


def is_known(folder: RunFolder) -> bool:
    """Whether this user began or resumed the run in `folder`."""
    return _read(folder).get("run") == str(folder.path.resolve())


def allowed(
    folder: RunFolder, settings: Settings, name: str, named: str | None = None
) -> str | None:
    """Value of `storage` or `address` to use: the one named now, or that of a run that is known.

    Raises `RunError` for one that only the run folder names.
    """
    value: str | None = getattr(settings, name)
    if named is not None or value is None or value in HARMLESS:
        return named or value
    if is_known(folder) and _read(folder).get(name) == _digest(value):
        return value
    raise RunError(
        f"A run folder does not decide what is connected to; {str(folder.path)!r} names the "
        f"{name} {readable(value)!r}, but no search of yours did. If you trust it, give it "
        f"yourself with --{name}."
    )


def fold_known(folder: RunFolder) -> None:
    """Fold the write-ahead file of this user's own run in if no driver is alive.

    After a driver was killed, the folder can then be copied without that file.
    """
    if is_known(folder) and holder(folder.lease, None) is None:
        folder.require_plain(folder.database)
        fold_in(folder.database)


def _record(folder: RunFolder) -> Path:
    name = digest_of(str(folder.path.resolve()).encode("utf-8", "surrogateescape"))
    return cache_folder() / "runs" / f"{name[:32]}.json"


def _read(folder: RunFolder) -> dict[str, Any]:
    """Record of a run; empty if there is none of this user's, or it is damaged."""
    with suppress(OSError, ValueError, RecursionError):
        if is_trusted(file := _record(folder)):
            record = json.loads(file.read_bytes())
            return record if isinstance(record, dict) else {}
    return {}


def _digest(value: str | None) -> str | None:
    return None if value is None else digest_of(value.encode())
