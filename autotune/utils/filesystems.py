"""Full disks, and file systems that several machines share."""

from __future__ import annotations

import shlex
from pathlib import Path

from autotune.errors import RunError
from autotune.utils.events import warn

NETWORK = frozenset("nfs nfs4 cifs smb3 smbfs 9p lustre gpfs beegfs ceph glusterfs afs".split())
"""File systems on which SQLite must not use write-ahead logging."""


def warn_of_network(folder: Path) -> None:
    """Warn if the folder of the study's SQLite file is on a network file system."""
    if kind := network_kind(folder):
        warn(
            f"{folder} is on a network file system ({kind}), so the study is written with a "
            "rollback journal, which is slower. A local folder, or --storage with a server, is "
            "better."
        )


def network_kind(folder: Path) -> str:
    """Kind of the network file system that holds a folder; empty for a local disk."""
    kind = file_system(folder)
    return kind if kind in NETWORK else ""


def file_system(path: Path) -> str:
    """Kind of the file system that holds `path`, as Linux names it; empty if unknown."""
    try:
        mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return ""
    resolved = path.resolve()
    holding = [(at, kind) for at, kind in mounts if resolved.is_relative_to(at)]
    return max(holding, key=lambda mount: len(mount[0]))[1] if holding else ""


def disk_is_full(folder: Path) -> RunError:
    """Error to raise when nothing can be written any more."""
    return RunError(
        f"The disk of {folder} is full, so the search stops; what was recorded is kept. "
        f"Make room, then resume it with: autotune resume {shlex.quote(str(folder))}"
    )


_FULL = ("disk is full", "no space left", "quota exceeded", "disk i/o error")
"""Parts of messages of the system, of SQLite and of libraries that raise errors of their own."""


def is_full(error: BaseException | None) -> bool:
    """Whether an error, or one of its causes, reports a full disk."""
    while error is not None:
        text = str(error).lower()
        if any(part in text for part in _FULL):
            return True
        error = error.__cause__
    return False
