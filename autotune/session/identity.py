"""Identity of a search: the settings and digests that must not change between sessions."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autotune.errors import RunError
from autotune.run.settings import Settings
from autotune.session.setup import Setup
from autotune.session.workers import WHERE
from autotune.study.run_folder import RunFolder


def identity_of(setup: Setup) -> dict[str, Any]:
    """Settings and digests that must not change between sessions."""
    # left out where it is empty, so that the digest is the same as before the key existed
    newer = None if setup.space.exclude else {"exclude"}
    space, policy = setup.space.model_dump_json(exclude=newer), setup.settings.policy
    kept = setup.settings.model_dump(
        exclude={"trials", "timeout", "out", "storage", "keep", "disk", "references", *WHERE}
    )
    return {
        "backbone's fingerprint": setup.backbone.fingerprint,
        "data": setup.task.digest(),
        **({"policy's digest": _digest(Path(policy).read_bytes())} if policy else {}),
        "search space": _digest(space.encode()),
        **kept,
    }


def refuse_other(stored: Mapping[str, Any], now: Mapping[str, Any], folder: RunFolder) -> None:
    """Raise `RunError` if a search has another identity than the run that it continues."""
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    before = {**defaults, **stored}  # a setting that is newer than the run had its default
    differs = [key for key in now if before.get(key) != now[key]]
    if differs:
        raise RunError(
            f"A run must resume with what it began with, {folder.path} differs in "
            f"{', '.join(differs)}. Start a new search, or restore the old state."
        )


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
