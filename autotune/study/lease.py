"""Lease of a study: one driver owns it, by a file in the run folder and a study attribute."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from autotune.errors import LeaseError
from autotune.utils.events import warn
from autotune.utils.files import write_whole
from autotune.utils.processes import process_space, process_start, runs

RENEW, STALE = 10.0, 60.0
"""Seconds between renewals, and until a lease is stale.

A driver may miss five renewals, for example while its file system or database hangs.
"""

GONE = "nobody, as the run folder is gone"
"""To whom a driver has lost its study if its lease file is not there anymore."""

SETTLE = 1.0
"""Seconds between writing a lease and reading it back, unless `$AUTOTUNE_LEASE_SETTLE` is set.

Much longer than writing a small file takes, so that two drivers that start together both read what
the later one wrote. A network file system that caches attributes may need more.
"""


def settle_seconds() -> float:
    """`$AUTOTUNE_LEASE_SETTLE` in seconds, or `SETTLE`; raises `LeaseError` if it is invalid."""
    text = os.environ.get("AUTOTUNE_LEASE_SETTLE", "")
    try:
        seconds = float(text) if text else SETTLE
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < STALE:
        raise LeaseError(
            f"AUTOTUNE_LEASE_SETTLE must be seconds from 0 to {STALE:g}, got {text!r}. Unset it."
        )
    return seconds


@dataclass(frozen=True)
class Owner:
    """Process that drives a study."""

    host: str
    pid: int
    start: float
    """Time when the lease was taken, in seconds since 1970."""

    token: str
    """Random identifier of this lease."""

    renewed: float
    """Time of the last renewal, in seconds since 1970."""

    processes: str = ""
    """Where `pid` counts: the machine since it started, and the namespace (container)."""

    born: str = ""
    """Start of the process, by which another one with the same `pid` is told apart."""

    @classmethod
    def me(cls) -> Owner:
        now, pid = time.time(), os.getpid()
        token, born = uuid.uuid4().hex, process_start(pid)
        return cls(socket.gethostname(), pid, now, token, now, process_space(), born)

    def is_alive(self) -> bool:
        """Whether the lease is valid: not stale, and its process not known to be dead.

        Processes of other machines and containers cannot be seen, so that their lease counts until
        it is stale.
        """
        if abs(time.time() - self.renewed) > STALE:  # one from the future is none, too
            return False
        return self.processes != process_space() or runs(self.pid, self.born)

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.start))
        return f"process {self.pid} on {self.host} since {since}"


class Lease:
    """Lease held while a driver works and renewed by a thread.

    It is lost once it contains another token. Raises `LeaseError` on entry if a living driver
    owns the study.
    """

    def __init__(
        self,
        file: Path,
        read_attribute: Callable[[], Any],
        write_attribute: Callable[[Any], None],
        *,
        settle: float | None = None,
        renew: float = RENEW,
    ) -> None:
        self.file, self.renew = file, renew
        self.settle = settle_seconds() if settle is None else settle
        self._read_attribute, self._write_attribute = read_attribute, write_attribute
        self._lost = ""
        self._ended = threading.Event()

    def __enter__(self) -> Lease:
        if (owner := next((o for o in self._owners() if o.is_alive()), None)) is not None:
            raise LeaseError(
                f"One driver owns a study; {self.file.parent} is owned by {owner}. Stop it first."
            )
        self.me = Owner.me()
        try:
            self._take()
        except BaseException:  # Ctrl-C, too: this process may go on, and would own it
            self._release()
            raise
        self._thread = threading.Thread(target=self._renew, daemon=True, name="autotune-lease")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        if not self._lost:
            self._release()

    def _take(self) -> None:
        self._write()
        time.sleep(self.settle)
        if foreign := self._foreign():
            raise LeaseError(f"One driver owns a study; {foreign} took {self.file.parent} first.")

    def _release(self) -> None:
        """Remove the lease, unless another driver has taken it."""
        if not self._foreign():
            try:
                self._write_attribute(None)
            finally:
                self.file.unlink(missing_ok=True)

    def check(self) -> None:
        """Raise `LeaseError` if another driver has taken over; call it before every write."""
        if not self._lost and not self.file.exists():
            self._lost = GONE
        if self._lost == GONE:
            raise LeaseError(
                f"The run folder {str(self.file.parent)!r} is gone, so the search stops. If it was "
                "moved, continue it at its new place: autotune resume FOLDER"
            )
        if self._lost:
            raise LeaseError(f"This driver has lost its study to {self._lost} and stops.")

    @property
    def is_lost(self) -> bool:
        """Whether another driver has taken over."""
        return bool(self._lost)

    def owner(self) -> Owner | None:
        """Owner named by the file or the attribute, alive or not; None if there is none."""
        return next(iter(self._owners()), None)

    def _owners(self) -> list[Owner]:
        owners = [_owner(_read(self.file)), _owner(self._read_attribute())]
        return [owner for owner in owners if owner is not None]

    def _foreign(self) -> str:
        return next((str(o) for o in self._owners() if o.token != self.me.token), "")

    def _write(self) -> None:
        renewed = replace(self.me, renewed=time.time())
        write_whole(self.file, json.dumps(asdict(renewed)), makes_folder=False)
        self._write_attribute(asdict(renewed))
        self.me = renewed

    def _renew(self) -> None:
        while not self._ended.wait(self.renew):
            try:
                if foreign := (self._foreign() if self.file.exists() else GONE):
                    self._lost = foreign
                    return
                self._write()
            except Exception as error:
                warn(f"The lease of {self.file.parent} could not be renewed ({error}).")
                if time.time() - self.me.renewed > STALE:
                    self._lost = "nobody, as it could not be renewed"
                    return


def holder(file: Path, attribute: Any) -> Owner | None:
    """Living owner of a study by its lease file or attribute; None if there is none."""
    owners = [_owner(_read(file)), _owner(attribute)]
    return next((o for o in owners if o is not None and o.is_alive()), None)


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes()) if file.is_file() else None
    except (FileNotFoundError, ValueError, RecursionError):
        return None


LAST = 1e11
"""Latest time of a lease, in seconds since 1970: more is no date."""


def _owner(data: Any) -> Owner | None:
    """Owner that a lease names; None if there is none, or the lease is not one of autotune's."""
    try:
        owner = Owner(**data) if data else None
    except TypeError:
        return None
    return owner if owner is not None and _is_sound(owner) else None


def _is_sound(owner: Owner) -> bool:
    texts = (owner.host, owner.token, owner.processes, owner.born)
    times = (owner.start, owner.renewed)
    are_texts = all(isinstance(text, str) for text in texts)
    are_times = all(isinstance(at, int | float) and 0 <= at < LAST for at in times)
    return are_texts and are_times and isinstance(owner.pid, int) and owner.pid > 0
