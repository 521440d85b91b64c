"""Whether a file or folder can be created, before anything is computed for it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from autotune.errors import ConfigError, brief

LONGEST_NAME = 255
"""Bytes in a name, on all usual file systems."""


def obstacle(path: Path) -> str:
    """Reason why nothing can be created at `path`; empty if it can, or if it exists."""
    try:
        if any(len(os.fsencode(part)) > LONGEST_NAME for part in path.parts):
            return os.strerror(errno.ENAMETOOLONG)
        return "" if _exists(path) else _above(path)
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error)


def _above(path: Path) -> str:
    folder = next(part for part in path.absolute().parents if _exists(part))
    if not folder.is_dir():
        return os.strerror(errno.ENOTDIR)
    return "" if os.access(folder, os.W_OK) else os.strerror(errno.EACCES)


def _exists(path: Path) -> bool:
    """Whether there is something at `path`, be it a link that leads nowhere."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    return True


def require_writable(path: str | Path, what: str, option: str) -> None:
    """Raise `ConfigError` if `what` cannot be written to `path`, which `option` names."""
    if reason := obstacle(Path(path)) or _other(Path(path)):
        raise ConfigError(
            f"{what} cannot be written to {brief(repr(str(path)))} ({reason}). "
            f"Name another file with {option}."
        )


def _other(path: Path) -> str:
    """What is at `path` if it is not a file."""
    if path.is_dir():
        return os.strerror(errno.EISDIR)
    return "a link that leads nowhere" if os.path.lexists(path) and not path.exists() else ""
