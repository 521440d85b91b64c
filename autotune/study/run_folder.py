"""Run folder: all files of one search."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from autotune.errors import RunError
from autotune.utils.events import event_of
from autotune.utils.files import write_whole


@dataclass(frozen=True)
class RunFolder:
    """Paths in a run folder, and access to its small files. Only the driver writes."""

    path: Path

    @classmethod
    def new(cls, out: str | None, task: str) -> RunFolder:
        """Folder of a new search: `out`, or the first unused of `runs/TASK`, `runs/TASK-2`, …

        Raises `RunError` if `out` exists, unless it is empty or belongs to a search that was killed
        before it began, whose files are removed.
        """
        if out is not None:
            if Path(out).exists() and not _is_aborted(Path(out)):
                raise RunError(
                    f"A search needs a new folder, {out!r} exists. Choose another --out, or "
                    f"continue it with: autotune resume {out}"
                )
            for file in Path(out).iterdir() if Path(out).exists() else ():
                file.unlink()
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

    @classmethod
    def existing(cls, path: str | Path) -> RunFolder:
        """Folder of an existing run; raises `RunError` if there is none."""
        folder = cls(Path(path))
        if not folder.config.is_file():
            raise RunError(
                f"A run folder must contain config.yaml, {str(path)!r} does not. Check the path."
            )
        return folder

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
        return self.path / "supernet.safetensors"

    @property
    def origins(self) -> dict[str, str]:
        """Setting → where its value came from; empty for runs that did not record it."""
        origins: dict[str, str] = json.loads(self.read(self._origins) or "{}")
        return origins

    def add_origins(self, origins: Mapping[str, str]) -> None:
        """Record origins of settings when a search starts or resumes; they replace earlier ones."""
        write_whole(self._origins, json.dumps({**self.origins, **origins}, indent=2) + "\n")

    @property
    def skipped(self) -> Path:
        """Examples that were left out on request, with the reasons; missing if there are none."""
        return self.path / "skipped.json"

    def checkpoint(self, number: int) -> Path:
        return self._trial(number) / "checkpoint.safetensors"

    def delta(self, number: int, seed: int | None = None) -> Path:
        """Delta file of a trial, or of its repeat with `seed`."""
        name = "delta" if seed is None else f"delta-seed-{seed}"
        return self._trial(number) / f"{name}.safetensors"

    def read(self, file: Path) -> bytes | None:
        """Content of a file; None if it does not exist."""
        return file.read_bytes() if file.is_file() else None

    def job_checkpoint(self, name: str) -> Path:
        """Checkpoint of a job other than a trial, such as a baseline, until it is recorded."""
        return self.path / "jobs" / f"{name.replace(' ', '-')}.checkpoint"

    def drop_job_checkpoints(self, names: Iterable[str]) -> None:
        """Remove checkpoints of jobs other than trials, and their folder once it is empty."""
        for name in names:
            self.job_checkpoint(name).unlink(missing_ok=True)
        folder = self.path / "jobs"
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()

    def drop_checkpoint(self, number: int) -> None:
        """Remove the checkpoint of a trial, and its folder if nothing else is in it."""
        self.checkpoint(number).unlink(missing_ok=True)
        folder = self._trial(number)
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()

    def keep_only(self, numbers: set[int]) -> None:
        """Remove the folders of all trials except `numbers`."""
        root = self.path / "trials"
        for folder in root.iterdir() if root.is_dir() else ():
            if folder.name.isdigit() and int(folder.name) not in numbers:
                shutil.rmtree(folder)

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
        write_whole(self.path / "best" / "plan.json", json.dumps(json.loads(plan), indent=2) + "\n")
        write_whole(self.best, delta)

    @property
    def _origins(self) -> Path:
        return self.path / "origins.json"

    def _trial(self, number: int) -> Path:
        return self.path / "trials" / f"{number:04}"


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir()) if folder.is_dir() else 0


_BEFORE_CONFIG = {
    "skipped.json",
    "study.db",
    "study.db-journal",
    "study.db-wal",
    "study.db-shm",
    "prepared.safetensors",
}
"""Files that are written before config.yaml, which marks a search as begun."""


def _is_aborted(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir()}
    return {n for n in names if not n.startswith((".config.yaml", ".prepared"))} <= _BEFORE_CONFIG


class EventLog(logging.Handler):
    """Logging handler that appends events of the package to `log.jsonl`, one per line."""

    def __init__(self, folder: RunFolder) -> None:
        super().__init__()
        folder.path.mkdir(parents=True, exist_ok=True)
        self.stream = folder.log.open("a", buffering=1)

    def emit(self, record: logging.LogRecord) -> None:
        event = event_of(record)
        if event is not None:
            self.stream.write(json.dumps(event.to_json(), default=str) + "\n")

    def close(self) -> None:
        self.stream.close()
        super().close()
