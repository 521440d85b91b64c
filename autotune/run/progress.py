"""Progress of a search, computed from its events alone.

The events come from the search's own process or, for another process, from its `log.jsonl`.
"""

from __future__ import annotations

import json
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autotune.utils.events import Event

STAGES = {
    "preparation": 0.5,
    "references": 6.0,
    "head": 0.1,
    "proxies": 0.2,
    "supernet": 1.0,
    "trials": 1.0,
    "finalists": 3.0,
    "test": 0.2,
}
"""Stages in their order → their work in units of one training of `epochs` epochs.

`trials` counts once per trial. The weights are rough; only the progress bar and the estimate of
the remaining time use them.
"""

LATEST = 4
"""Number of events that are kept for the last lines of the live view, each one line high."""

IN_THE_BARS = frozenset(
    "begin stage progress round start progress-of-trial ended-before answer".split()
)
"""Event kinds that the bars of the live view show; it lists all others as the latest events."""


@dataclass
class Standing:
    """Progress of one search; `see` updates it with each event."""

    begun: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `begin`: run, task, budget, limit, measure, metric, units, trials, left_out, …"""

    stage: str = ""
    part: float = 0.0
    """Fraction of the stage that is done, from 0 to 1."""

    message: str = "Loading"
    """Text of the latest stage or progress event."""

    states: Counter[str] = field(default_factory=Counter)
    """State → number of finished trials in it; `repeated` for proposals already tried."""

    running: dict[int, tuple[int, int, float]] = field(default_factory=dict)
    """Number of a running trial → steps done, steps in total, latest value.

    A step is an epoch, or a fold if plans are scored by folds.
    """

    best: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the best trial's `end`: number, value, cost, labels."""

    baselines: dict[str, float] = field(default_factory=dict)
    latest: deque[Event] = field(default_factory=lambda: deque(maxlen=LATEST))
    since: float = 0.0
    """Time at which this session began, in seconds since 1970."""

    before: float = 0.0
    """Work of earlier sessions, in trainings."""

    has_ended: bool = False

    def see(self, event: Event) -> None:
        """Update the progress with an event."""
        self.since = self.since or event.time
        if (act := _ACTS.get(event.kind)) is not None:
            with suppress(KeyError):  # an earlier version wrote fewer fields
                act(self, event)
        if event.kind not in IN_THE_BARS:
            self.latest.append(event)

    def forget(self) -> None:
        """Reset what belongs to the previous search, as another one begins.

        The latest events stay: a backend describes itself before `begin`.
        """
        for counts in (self.states, self.baselines):
            counts.clear()
        self.best, self.stage, self.part = {}, "", 0.0

    @property
    def total(self) -> int | None:
        """Maximum number of trials; None if the strategy ends the search."""
        trials: int | None = self.begun.get("trials")
        return trials

    @property
    def stages(self) -> list[str]:
        """Stages of this search, in their order."""
        left_out: Iterable[str] = self.begun.get("left_out", ())
        return [stage for stage in STAGES if stage not in left_out]

    @property
    def ended(self) -> int:
        """Number of trials that have ended."""
        return sum(self.states.values())

    def work(self) -> tuple[float, float] | None:
        """Work done and work left in the whole search, in trainings; None without a trial limit."""
        if self.total is None or not self.begun:
            return None
        weights = {s: STAGES[s] * (self.total if s == "trials" else 1) for s in self.stages}
        done = sum(weight * self._share(stage) for stage, weight in weights.items())
        return done, sum(weights.values()) - done

    def left(self, now: float) -> float | None:
        """Estimated seconds until the search ends; None as long as there is no estimate."""
        work = self.work()
        # Below 0.3 trainings in this session, start-up dominates and the estimate would jump.
        if work is None or (done := work[0] - self.before) < 0.3:
            return None
        return (now - self.since) / done * work[1]

    def _share(self, stage: str) -> float:
        """Fraction of a stage that is done."""
        order = self.stages
        at = order.index(self.stage) if self.stage in order else -1
        if self.has_ended or order.index(stage) < at:
            return 1.0
        if order.index(stage) > at:
            return 0.0
        return self._trials_done() if stage == "trials" else min(self.part, 1.0)

    def _trials_done(self) -> float:
        running = sum(step / steps for step, steps, _ in list(self.running.values()))
        return min((self.ended + running) / max(self.total or 1, 1), 1.0)


LONG_LOG = 2**24
"""Bytes of a log above which only its end is read in full: 16 MiB take half a second to parse."""

LOG_END = 2**20
"""Bytes at the end of a long log that are read in full."""

LONGEST_LINE = 2**20
"""Bytes of the longest line that is read; events have a few thousand."""


def read_events(file: Path, start: int = 0) -> Iterator[tuple[Event, int]]:
    """Yield the events of a `log.jsonl` from byte `start` on, each with the byte at which it ends.

    A last line without a newline is still being written and is left for the next call.
    """
    for line, end in _lines(file, start):
        if (event := _event_of(line)) is not None:
            yield event, end


def catch_up(file: Path) -> Iterator[tuple[Event, int]]:
    """Yield the events of a `log.jsonl` from its beginning, as `read_events` does.

    Of a long log, whose trials may have thousands of epochs, those before its end are condensed to
    what a `Standing` shows: a best trial and a number of others.
    """
    middle = long_log_end(file)
    yield from _condensed(file, middle)
    yield from read_events(file, middle)


def long_log_end(file: Path) -> int:
    """Byte at which the last events of a long log begin; 0 for a log that is not long."""
    size = file.stat().st_size if file.is_file() else 0
    if size <= LONG_LOG:
        return 0
    start = size - LOG_END
    with file.open("rb") as stream:
        stream.seek(start)
        return start + len(stream.readline(LONGEST_LINE))


def _lines(file: Path, start: int) -> Iterator[tuple[bytes, int]]:
    """Whole lines of a file, each with the byte at which it ends; longer ones are left out."""
    if not file.is_file():
        return
    with file.open("rb") as stream:
        stream.seek(start)
        is_rest = False
        while line := stream.readline(LONGEST_LINE):
            start += len(line)
            is_whole = line.endswith(b"\n")
            if is_whole and not is_rest:
                yield line, start
            elif len(line) < LONGEST_LINE and not is_whole:
                return
            is_rest = not is_whole


_ENDED = re.compile(rb'"kind": "end", "number": \d+, "state": "([^"]*)", "value": ([^,}]*)')
"""Beginning of the fields of `end`, in the order in which they are written."""

_FREQUENT = tuple(f'"kind": "{kind}"'.encode() for kind in ("progress-of-trial", "start"))
"""Marks of events that the end of their trial makes obsolete."""


def _condensed(file: Path, end: int) -> Iterator[tuple[Event, int]]:
    """Events before byte `end`, with those of trials replaced by one that counts them."""
    states, best, best_line = Counter[str](), float("-inf"), b""
    for line, at in _lines(file, 0) if end else ():
        if at > end:
            break
        if (ended := _ENDED.search(line)) is not None:
            states[ended[1].decode()] += 1
            if ended[2] != b"null" and (value := float(ended[2])) > best:
                best, best_line = value, line
        elif not any(mark in line for mark in _FREQUENT) and (event := _event_of(line)):
            yield from _counted(states, best_line, at)
            states, best_line = Counter(), b""
            yield event, at
    yield from _counted(states, best_line, end)


def _counted(states: Counter[str], best: bytes, at: int) -> Iterator[tuple[Event, int]]:
    if states:
        event = _event_of(best)
        fields = {"states": dict(states), "best": event.fields if event else {}}
        yield Event("ended-before", "", event.time if event else 0.0, fields), at


def _event_of(line: bytes) -> Event | None:
    """Event of a line; None if a full disk or a power cut left the line broken."""
    try:
        return Event.from_json(json.loads(line))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _on_begin(standing: Standing, event: Event) -> None:
    if standing.begun.get("run") != event.fields.get("run"):
        standing.forget()
    standing.begun, standing.has_ended = event.fields, False
    standing.running.clear()
    for name, value in event.fields.get("references", {}).items():
        _take_baseline(standing, name, value)
    work = standing.work()
    standing.since, standing.before = event.time, work[0] if work else 0.0


def _on_stage(standing: Standing, event: Event) -> None:
    standing.message = event.text
    if event.fields["stage"] in STAGES:
        standing.stage, standing.part = event.fields["stage"], 0.0


def _on_progress(standing: Standing, event: Event) -> None:
    standing.message = event.text
    standing.part = event.fields["done"] / event.fields["total"]


def _take_baseline(standing: Standing, name: str, value: float) -> None:
    """Keep the better of two linear probes, one of which has re-estimated statistics."""
    short = name.partition(" ")[0]
    standing.baselines[short] = max(value, standing.baselines.get(short, value))


def _on_baseline(standing: Standing, event: Event) -> None:
    _take_baseline(standing, event.fields["name"], event.fields["value"])
    standing.part += 0.5 if standing.stage == "references" else 0.0


def _on_repeat_of_finalist(standing: Standing, event: Event) -> None:
    standing.part += 1 / 3


def _on_start(standing: Standing, event: Event) -> None:
    standing.running.setdefault(event.fields["number"], (0, 1, 0.0))


def _on_epoch(standing: Standing, event: Event) -> None:
    fields = event.fields
    standing.running[fields["number"]] = fields["step"], fields["steps"], fields["value"]


def _on_repeat(standing: Standing, event: Event) -> None:
    standing.states["repeated"] += 1


def _on_end(standing: Standing, event: Event) -> None:
    standing.running.pop(event.fields["number"], None)
    standing.states[event.fields["state"]] += 1
    value = event.fields["value"]
    if value is not None and value > standing.best.get("value", float("-inf")):
        standing.best = event.fields


def _on_ended_before(standing: Standing, event: Event) -> None:
    standing.states.update(event.fields["states"])
    best = event.fields["best"]
    if best and best["value"] > standing.best.get("value", float("-inf")):
        standing.best = best


def _on_answer(standing: Standing, event: Event) -> None:
    standing.has_ended, standing.message = True, event.text


_ACTS: Mapping[str, Callable[[Standing, Event], None]] = {
    "begin": _on_begin,
    "stage": _on_stage,
    "progress": _on_progress,
    "round": _on_progress,
    "reference": _on_baseline,
    "repeat-of-finalist": _on_repeat_of_finalist,
    "start": _on_start,
    "progress-of-trial": _on_epoch,
    "repeat": _on_repeat,
    "end": _on_end,
    "ended-before": _on_ended_before,
    "answer": _on_answer,
}
