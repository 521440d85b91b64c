"""Where a search stands, by what it told: the same from its own log and from another process."""

from __future__ import annotations

import json
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
"""In their order → about how many trainings each takes; of trials, each."""

LATEST = 4
"""Events that are remembered."""

IN_THE_BARS = frozenset(
    ("begin", "stage", "progress", "round", "start", "progress-of-trial", "answer")
)
"""Kinds that other lines of the view show; all others are among the latest events."""


@dataclass
class Standing:
    """Taken in event by event; reading it changes nothing."""

    begun: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `begin`: run, task, budget, limit, measure, metric, units, trials, left_out, …"""

    stage: str = ""
    part: float = 0.0
    """Done share of the stage, from 0 to 1."""

    message: str = "Loading"
    """What is done now, in words."""

    states: Counter[str] = field(default_factory=Counter)
    running: dict[int, tuple[int, int, float]] = field(default_factory=dict)
    """Trial → epoch, epochs, value."""

    best: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the best trial's `end`: number, value, cost, labels."""

    baselines: dict[str, float] = field(default_factory=dict)
    latest: deque[Event] = field(default_factory=lambda: deque(maxlen=LATEST))
    since: float = 0.0
    """When this sitting began."""

    before: float = 0.0
    """Work that earlier sittings had done."""

    has_ended: bool = False

    def see(self, event: Event) -> None:
        """Take in what happened."""
        self.since = self.since or event.time
        if (act := _ACTS.get(event.kind)) is not None:
            with suppress(KeyError):  # of an earlier version, without some field
                act(self, event)
        if event.kind not in IN_THE_BARS:
            self.latest.append(event)

    def forget(self) -> None:
        """Another search begins; what was told last, as by its backend, stays."""
        for counts in (self.states, self.baselines):
            counts.clear()
        self.best, self.stage, self.part = {}, "", 0.0

    # what follows from it

    @property
    def total(self) -> int | None:
        """Largest number of trials; None where the strategy ends by itself."""
        trials: int | None = self.begun.get("trials")
        return trials

    @property
    def stages(self) -> list[str]:
        """Those of this search, in their order."""
        left_out: Iterable[str] = self.begun.get("left_out", ())
        return [stage for stage in STAGES if stage not in left_out]

    @property
    def ended(self) -> int:
        """Trials that came to an end."""
        return sum(self.states.values())

    def work(self) -> tuple[float, float] | None:
        """Trainings done and to be done in the whole search; None where no number is known."""
        if self.total is None or not self.begun:
            return None
        weights = {s: STAGES[s] * (self.total if s == "trials" else 1) for s in self.stages}
        done = sum(weight * self._share(stage) for stage, weight in weights.items())
        return done, sum(weights.values()) - done

    def left(self, now: float) -> float | None:
        """About how many seconds the whole search still takes; None while that is not known."""
        work = self.work()
        if work is None or (done := work[0] - self.before) < 0.3:
            return None
        return (now - self.since) / done * work[1]

    def _share(self, stage: str) -> float:
        """Done share of a stage."""
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


def read_events(file: Path, start: int = 0) -> Iterator[tuple[Event, int]]:
    """Events of a `log.jsonl` from byte `start` on, and where each ends; half a line is left."""
    if not file.is_file():
        return
    with file.open("rb") as stream:
        stream.seek(start)
        for line in stream:
            if not line.endswith(b"\n"):
                return
            start += len(line)
            if (event := _event_of(line)) is not None:
                yield event, start


def _event_of(line: bytes) -> Event | None:
    """None for a line that a full disk or a power cut left broken."""
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
    """Keep the better one of two linear probes."""
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
    "answer": _on_answer,
}
