"""Processes of this machine: whether one runs, and where its number counts."""

from __future__ import annotations

import os
import socket
import uuid
from functools import cache
from pathlib import Path


@cache
def process_space() -> str:
    """Where process numbers count: this machine since it started, and the container.

    Two containers may have the same host name and do not see each other's processes.
    """
    boot = _text("/proc/sys/kernel/random/boot_id") or f"{socket.gethostname()}-{uuid.getnode()}"
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return f"{boot} {namespace}".strip()


def process_start(pid: int) -> str:
    """When a process started, in ticks of the machine; empty where that is not known."""
    fields = _fields(pid)
    return fields[19] if len(fields) > 19 else ""


def runs(pid: int, born: str = "") -> bool:
    """Whether a process runs, and is the one that started at `born`, if that is known."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    is_zombie = _fields(pid)[:1] == ["Z"]  # ended, but not yet waited for by its parent
    is_other = bool(born) and process_start(pid) not in ("", born)
    return not (is_zombie or is_other)


def _fields(pid: int) -> list[str]:
    """Fields of a process from its state on (Linux only)."""
    return _text(f"/proc/{pid}/stat").rpartition(")")[2].split()


def _text(file: str) -> str:
    try:
        return Path(file).read_text().strip()
    except OSError:
        return ""
