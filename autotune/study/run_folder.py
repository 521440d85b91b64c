"""The run folder: where everything about one search lies."""

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
    """Paths of one run, and its small files. Only the driver writes."""

    path: Path

    @classmethod
    def new(cls, out: str | None, task: str) -> RunFolder:
        """A folder that is not there yet: the named one, or `runs/TASK`, `runs/TASK-2`, …

        Raises `RunError` when the named folder exists, but for an empty one, and for one whose
        search was killed before it began: what that left is removed.
        """
        if out is not None:
            if Path(out).exists() and not _is_aborted(Path(out)):
                raise RunError(
                    f"A search needs a new folder, {out!r} exists. Name another with --out, or "
                    f"go on with: autotune resume {out}"
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
        """The folder of a run; `RunError` when there is none."""
        folder = cls(Path(path))
        if not folder.config.is_file():
            raise RunError(
                f"A run folder has a config.yaml, {str(path)!r} has none. Check the path."
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
        """Events, one a line."""
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
        """Where a supernet stands; gone when its stage ends."""
        return self.path / "supernet.safetensors"

    @property
    def origins(self) -> dict[str, str]:
        """Setting → where it was given; empty for runs before there were origins."""
        known: dict[str, str] = json.loads(self.read(self._origins) or "{}")
        return known

    def add_origins(self, origins: Mapping[str, str]) -> None:
        """Those of a search that begins or goes on, over those that are known."""
        write_whole(self._origins, json.dumps({**self.origins, **origins}, indent=2) + "\n")

    def checkpoint(self, number: int) -> Path:
        return self._trial(number) / "checkpoint.safetensors"

    def delta(self, number: int, seed: int | None = None) -> Path:
        """A trial's delta file; with a seed, that of its repeat."""
        name = "delta" if seed is None else f"delta-seed-{seed}"
        return self._trial(number) / f"{name}.safetensors"

    def read(self, file: Path) -> bytes | None:
        """A file's content, None when it is not there."""
        return file.read_bytes() if file.is_file() else None

    def job_checkpoint(self, name: str) -> Path:
        """Checkpoint of a job next to the trials, such as a baseline; gone when it is recorded."""
        return self.path / "jobs" / f"{name.replace(' ', '-')}.checkpoint"

    def drop_job_checkpoints(self, names: Iterable[str]) -> None:
        """Remove checkpoints of jobs next to the trials, and their folder once it is empty."""
        for name in names:
            self.job_checkpoint(name).unlink(missing_ok=True)
        folder = self.path / "jobs"
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()

    def drop_checkpoint(self, number: int) -> None:
        """Remove a trial's checkpoint, and its folder when that is all it had."""
        self.checkpoint(number).unlink(missing_ok=True)
        folder = self._trial(number)
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()

    def keep_only(self, numbers: set[int]) -> None:
        """Remove the trial folders that are not among `numbers`."""
        root = self.path / "trials"
        for folder in root.iterdir() if root.is_dir() else ():
            if folder.name.isdigit() and int(folder.name) not in numbers:
                shutil.rmtree(folder)

    def within(self, ranked: Iterable[int], limit: int, besides: Iterable[int]) -> list[int]:
        """The first of these trials whose files fit beside others; at least the very first."""
        room = limit - sum(_bytes(self._trial(number)) for number in besides)
        kept: list[int] = []
        for number in ranked:
            room -= _bytes(self._trial(number))
            if kept and room < 0:
                break
            kept.append(number)
        return kept

    def put_best(self, delta: bytes, plan: str) -> None:
        """Write `best/`: the plan first, so that a delta file there is always complete."""
        write_whole(self.path / "best" / "plan.json", json.dumps(json.loads(plan), indent=2) + "\n")
        write_whole(self.best, delta)

    @property
    def _origins(self) -> Path:
        return self.path / "origins.json"

    def _trial(self, number: int) -> Path:
        return self.path / "trials" / f"{number:04}"


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir()) if folder.is_dir() else 0


_FIRST = {"study.db", "study.db-journal", "study.db-wal", "study.db-shm", "prepared.safetensors"}
"""Files that are written before the configuration, with which a search has begun."""


def _is_aborted(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir()}
    return {n for n in names if not n.startswith((".config.yaml", ".prepared"))} <= _FIRST


class EventLog(logging.Handler):
    """Appends what the package tells to `log.jsonl`, one event a line."""

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
