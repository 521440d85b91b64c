"""What reading a file may not do: audit events, and a comparison of all files around it."""

from __future__ import annotations

import os
import stat
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

FORBIDDEN = frozenset(
    "os.system os.exec os.posix_spawn os.fork os.forkpty subprocess.Popen pickle.find_class "
    "socket.connect socket.bind os.kill".split()
)
"""Events that no file may cause."""

WRITES = frozenset(
    "os.chmod os.chown os.link os.mkdir os.remove os.rename os.rmdir os.setxattr os.symlink "
    "os.truncate os.utime sqlite3.connect".split()
)
"""Events that change a file; their arguments begin with its path."""

WRITING_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

CANARIES = frozenset(("antigravity", "this"))
"""Modules that mutations name and that nothing else imports."""

GENERATED = ("<sqlalchemy", "<frozen ", "<attrs generated", "<template>", "<lambdifygenerated")
"""Names of code that libraries generate from their own texts."""

SCRATCH = "autotune-study-"
"""Beginning of the folders in the temporary folder to which databases are copied for reading."""


class Watch:
    """Audit hook that counts what a file causes and must not: see `FORBIDDEN` and `WRITES`.

    It hears what Python does, not what C libraries do by themselves: `listing` shows that.
    """

    def __init__(self, scratch: Path) -> None:
        self.seen: Counter[str] = Counter()
        self._is_on = False
        self._scratch = str(scratch / SCRATCH)
        paths = sysconfig.get_paths()
        places = (paths["stdlib"], paths["purelib"], Path(__file__).parents[1] / "autotune")
        self._libraries = (*map(str, places), *GENERATED)
        sys.addaudithook(self._hear)

    @contextmanager
    def on(self) -> Iterator[None]:
        self._is_on = True
        try:
            yield
        finally:
            self._is_on = False

    def _hear(self, event: str, arguments: tuple[object, ...]) -> None:
        if not self._is_on:
            return
        self._is_on = False  # what follows causes events, too
        try:
            if fault := self._fault(event, arguments):
                self.seen[fault] += 1
        finally:
            self._is_on = True

    def _fault(self, event: str, arguments: tuple[object, ...]) -> str:
        if event in FORBIDDEN or (event == "import" and arguments[0] in CANARIES):
            return f"{event} {str(arguments)[:60]}"
        if event == "exec" and not self._is_library(code := arguments[0]):
            return f"exec {code}"
        if event == "open" and not _is_writing(*arguments):
            return ""
        if event == "open" or event in WRITES:
            return next((f"{event} {p}" for p in _paths(event, arguments) if self._bars(p)), "")
        return ""

    def _is_library(self, code: object) -> bool:
        return getattr(code, "co_filename", "").startswith(self._libraries)

    def _bars(self, path: str) -> bool:
        return not path.startswith(self._scratch) and path != os.devnull


def _is_writing(path: object, mode: object, flags: object) -> bool:
    if isinstance(path, int):  # a file that is open already
        return False
    if isinstance(mode, str):
        return bool(set(mode) & set("wax+"))
    return isinstance(flags, int) and bool(flags & WRITING_FLAGS)


def _paths(event: str, arguments: tuple[object, ...]) -> list[str]:
    """Absolute paths that an event changes."""
    both = event in ("os.rename", "os.link")
    names = arguments[:2] if both else arguments[1:2] if event == "os.symlink" else arguments[:1]
    folder = arguments[-1] if event in ("os.remove", "os.rmdir", "os.mkdir") else -1
    return [_absolute(name, folder) for name in names]


def _absolute(name: object, folder: object) -> str:
    if isinstance(name, int):
        return os.readlink(f"/proc/self/fd/{name}")
    path = os.fsdecode(name)  # type: ignore[arg-type]
    if isinstance(folder, int) and folder >= 0:
        path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)
    return os.path.abspath(path)


Listing = Mapping[str, tuple[int, ...]]
"""Path → what changes with a file or folder: its mode, size, time and inode."""


def listing(*roots: Path, without: tuple[Path, ...] = ()) -> Listing:
    """All files and folders below `roots`, except those at or below a path in `without`."""
    skipped = frozenset(map(str, without))
    entries: dict[str, tuple[int, ...]] = {}
    for root in roots:
        _list(str(root), skipped, entries)
    return entries


def _list(folder: str, skipped: frozenset[str], entries: dict[str, tuple[int, ...]]) -> None:
    entries[folder] = _stamp(os.lstat(folder))
    for entry in os.scandir(folder):
        if entry.path in skipped or entry.name == "__pycache__":
            continue
        if entry.is_dir(follow_symlinks=False):
            _list(entry.path, skipped, entries)
        else:
            entries[entry.path] = _stamp(entry.stat(follow_symlinks=False))


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    if stat.S_ISDIR(status.st_mode):  # its time changes with every file that comes and goes
        return status.st_mode, status.st_ino
    return status.st_mode, status.st_size, status.st_mtime_ns, status.st_ino


def differences(before: Listing, after: Listing) -> list[str]:
    """Paths that came, went or changed."""
    return sorted(
        path for path in before.keys() | after.keys() if before.get(path) != after.get(path)
    )
