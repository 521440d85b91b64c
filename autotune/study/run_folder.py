"""Run folder: all files of one search."""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from autotune.errors import RunError, brief, first_line
from autotune.utils.events import event_of
from autotune.utils.files import write_new, write_whole
from autotune.utils.filesystems import disk_is_full, is_full
from autotune.utils.json_text import to_json_text
from autotune.utils.new_path import obstacle

_FORMER_CHECKPOINT = "checkpoint.safetensors"
"""Name of checkpoints of trials in earlier versions, which had no digest."""

_TRIAL_FILE = re.compile(
    r"trial\.checkpoint$|checkpoint\.safetensors$|delta(-seed-\d+)?\.safetensors$"
)
"""Files in the folder of a trial."""


@dataclass(frozen=True)
class RunFolder:
    """Paths in a run folder, and access to its small files. Only the driver writes."""

    path: Path

    @classmethod
    def new(cls, out: str | None, task: str) -> RunFolder:
        """Folder of a new search: `out`, or the first unused of `runs/TASK`, `runs/TASK-2`, …

        Nothing is created yet. Raises `RunError` if `out` exists, unless it is an empty folder.
        """
        if out is not None:
            if reason := obstacle(Path(out)):
                raise _impossible(Path(out), reason)
            if not _is_free(Path(out)):
                raise _taken(Path(out))
            return cls(Path(out))
        name = (
            task.rpartition(":")[2]
            if task.startswith("builtin:")
            else Path(task.partition(":")[2]).stem
        )
        names = (
            f"{name or 'task'}{suffix}" for suffix in ("", *(f"-{i}" for i in range(2, 10**6)))
        )
        return cls(next(p for n in names if not (p := Path("runs") / n).exists()))

    def claim(self, config: str) -> None:
        """Create the folder with `config.yaml`, its first file, as that of this search alone.

        Raises `RunError` if another search has taken the folder since.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if not _is_free(self.path) or not write_new(self.config, config):
                raise _taken(self.path)
        except OSError as error:
            if is_full(error):
                raise disk_is_full(self.path) from error
            raise _impossible(self.path, first_line(error)) from error

    def abandon(self) -> None:
        """Remove what `claim` created; the folder stays if anything else is in it."""
        with suppress(OSError):
            self.config.unlink()
            self.path.rmdir()

    @classmethod
    def existing(cls, path: str | Path) -> RunFolder:
        """Folder of an existing run; raises `RunError` if there is none."""
        folder = cls(Path(path))
        if not folder.config.is_file():
            raise RunError(
                f"A run folder must contain config.yaml, {str(path)!r} does not. Check the path."
            )
        return folder

    def require_writable(self) -> None:
        """Raise `RunError` if a search in this folder cannot be continued, as it only can be read.

        Files that are replaced whole need no more than a writable folder.
        """
        for path in (self.path, self.log, self.database):
            if path.exists() and not os.access(path, os.W_OK):
                raise self.not_writable(path, "only reading is permitted")

    def not_writable(self, path: Path, reason: str) -> RunError:
        """Error to raise when a file of this folder cannot be written."""
        return RunError(
            f"A search continues in a folder that can be written, {brief(repr(str(path)))} cannot "
            f"({reason}). Copy {str(self.path)!r} to a place of your own and continue it there."
        )

    def is_bare(self) -> bool:
        """Whether nothing was recorded yet, so that the study may not exist either."""
        kept = ("trials", "jobs", "best", self.prepared.name)
        return not any((self.path / name).exists() for name in kept)

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def lease(self) -> Path:
        return self.path / "lease.json"

    @property
    def database(self) -> Path:
        return self.path / "study.db"

    @property
    def log(self) -> Path:
        """Events as JSON, one per line."""
        return self.path / "log.jsonl"

    @property
    def prepared(self) -> Path:
        return self.path / "prepared.safetensors"

    @property
    def best(self) -> Path:
        return self.path / "best" / "delta.safetensors"

    @property
    def policy(self) -> Path:
        return self.path / "best" / "policy.safetensors"

    @property
    def supernet(self) -> Path:
        """Checkpoint of the supernet; removed when its stage ends."""
        return self.path / "supernet.checkpoint"

    @property
    def origins(self) -> dict[str, str]:
        """Setting → where its value came from; empty for runs that did not record it.

        Raises `RunError` if the file is something else.
        """
        try:
            origins = json.loads(self.read(self._origins) or "{}")
        except (ValueError, RecursionError):
            origins = None
        is_mapping = isinstance(origins, dict)
        if not is_mapping or not all(isinstance(place, str) for place in origins.values()):
            raise RunError(
                f"Origins are a mapping of settings to texts, {str(self._origins)!r} is none. "
                "Remove it; the settings themselves are in config.yaml."
            )
        return dict(origins)

    def add_origins(self, origins: Mapping[str, str]) -> None:
        """Record origins of settings when a search starts or resumes; they replace earlier ones."""
        self.write(self._origins, json.dumps({**self.origins, **origins}, indent=2) + "\n")

    @property
    def skipped(self) -> Path:
        """Examples that were left out on request, with the reasons; missing if there are none."""
        return self.path / "skipped.json"

    def checkpoint(self, number: int) -> Path:
        return self._trial(number) / "trial.checkpoint"

    def former_checkpoint(self, number: int) -> Path:
        return self._trial(number) / _FORMER_CHECKPOINT

    def delta(self, number: int, seed: int | None = None) -> Path:
        """Delta file of a trial, or of its repeat with `seed`."""
        name = "delta" if seed is None else f"delta-seed-{seed}"
        return self._trial(number) / f"{name}.safetensors"

    def read(self, file: Path) -> bytes | None:
        """Content of a file; None if it does not exist."""
        return file.read_bytes() if file.is_file() else None

    def write(self, file: Path, content: bytes | str) -> None:
        """Write a file of this folder whole, in folders below it that are made if they are missing.

        Raises `RunError` if the run folder is gone, or a link leads out of it.
        """
        self._enter(file.parent)
        self.require_plain(file)
        write_whole(file, content)

    def require_plain(self, file: Path) -> None:
        """Raise `RunError` if a file of this folder is a link or no file, such as a pipe.

        The same holds for the files that SQLite adds to a database.
        """
        for suffix in ("", "-wal", "-shm", "-journal"):
            part = file.with_name(file.name + suffix)
            if part.is_symlink():
                raise _has_link(part)
            if part.exists() and not part.is_file():
                raise RunError(f"A run folder has a file there, {str(part)!r} is none. Remove it.")

    def _enter(self, folder: Path) -> None:
        below = self.path
        for name in folder.relative_to(self.path).parts:
            below /= name
            if below.is_symlink():
                raise _has_link(below)
            try:
                below.mkdir(exist_ok=True)
            except FileNotFoundError as error:
                raise RunError(
                    f"The run folder {str(self.path)!r} is gone, so the search stops. If it was "
                    "moved, continue it at its new place: autotune resume FOLDER"
                ) from error

    def job_checkpoint(self, name: str) -> Path:
        """Checkpoint of a job other than a trial, such as a baseline, until it is recorded."""
        return self.path / "jobs" / f"{name.replace(' ', '-')}.checkpoint"

    def drop_job_checkpoints(self, names: Iterable[str]) -> None:
        """Remove checkpoints of jobs other than trials, and their folder once it is empty."""
        self._remove([self.job_checkpoint(name) for name in names])

    def drop_checkpoint(self, number: int) -> None:
        """Remove the checkpoint of a trial, and its folder if nothing else is in it."""
        self._remove([self.checkpoint(number), self.former_checkpoint(number)])

    def keep_only(self, numbers: set[int], known: Iterable[int]) -> None:
        """Remove the files of the `known` trials, except those of `numbers`.

        Whatever else is in the folder, and whatever a link leads to, stays.
        """
        for number in {*known} - numbers:
            folder = self._trial(number)
            if self._is_inside(folder):
                self._remove([file for file in folder.iterdir() if _TRIAL_FILE.match(file.name)])

    def _remove(self, files: Iterable[Path]) -> None:
        """Remove files, and their folders if nothing else is in them; links are not followed."""
        for file in files:
            if self._is_inside(file.parent):
                file.unlink(missing_ok=True)
                if not any(file.parent.iterdir()):
                    file.parent.rmdir()

    def _is_inside(self, folder: Path) -> bool:
        """Whether a folder exists and no part of its path below the run folder is a link."""
        parts = [folder, *folder.parents]
        below = parts[: parts.index(self.path)]
        return folder.is_dir() and not any(part.is_symlink() for part in below)

    def within(self, ranked: Iterable[int], limit: int, besides: Iterable[int]) -> list[int]:
        """First trials of `ranked` whose files fit into `limit` bytes; at least one.

        Files of the trials in `besides` count towards the limit.
        """
        room = limit - sum(_bytes(self._trial(number)) for number in besides)
        kept: list[int] = []
        for number in ranked:
            room -= _bytes(self._trial(number))
            if kept and room < 0:
                break
            kept.append(number)
        return kept

    def put_best(self, delta: bytes, plan: str) -> None:
        """Write `best/`, the plan first, so that a delta file never exists without its plan."""
        self.write(self.path / "best" / "plan.json", json.dumps(json.loads(plan), indent=2) + "\n")
        self.write(self.best, delta)

    @property
    def _origins(self) -> Path:
        return self.path / "origins.json"

    def _trial(self, number: int) -> Path:
        return self.path / "trials" / f"{number:04}"


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir()) if folder.is_dir() else 0


def _is_free(folder: Path) -> bool:
    """Whether a folder does not exist or is empty."""
    return not os.path.lexists(folder) or (folder.is_dir() and not any(folder.iterdir()))


def _has_link(link: Path) -> RunError:
    return RunError(f"A run folder has no links, {str(link)!r} is one. Remove it.")


def _impossible(folder: Path, reason: str) -> RunError:
    shown = brief(repr(str(folder)))
    return RunError(f"A run folder must be writable, {shown} is not ({reason}). Name another one.")


def _taken(folder: Path) -> RunError:
    if (folder / "config.yaml").is_file():
        way_out = f"continue it with: autotune resume {shlex.quote(str(folder))}"
    else:
        way_out = "empty the folder yourself"
    return RunError(
        f"A search needs a new folder, {str(folder)!r} exists. Choose another --out, or {way_out}"
    )


class EventLog(logging.Handler):
    """Logging handler that appends events of the package to `log.jsonl`, one per line."""

    def __init__(self, folder: RunFolder) -> None:
        folder.path.mkdir(parents=True, exist_ok=True)
        folder.require_plain(folder.log)
        self.stream = folder.log.open("a", buffering=1, encoding="utf-8")
        super().__init__()  # `logging` closes at exit what was initialised

    def emit(self, record: logging.LogRecord) -> None:
        event = event_of(record)
        if event is not None:
            self.stream.write(to_json_text(event.to_json(), indent=None) + "\n")

    def close(self) -> None:
        self.stream.close()
        super().close()
