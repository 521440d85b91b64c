"""Whole searches that are killed in each of their stages and resumed: nothing lost or repeated.

`python kill_stages.py` runs the command line with every backend, with the database in the run
folder and elsewhere. `python kill_stages.py inline --kills 10` runs one backend.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kills import measure_kills, with_faults

from autotune.run.notebook import Study

STAGES = (
    *("begin", "preparation", "references", "head", "proxies", "supernet"),
    *("trials", "finalists", "test"),
)
"""Stages of a search, in each of which it is killed; `begin` is before the first one."""

BACKENDS = ("inline", "processes", "ray")
SEARCH = ("search", "--trials", "3", "--epochs", "2", "--quiet", "--workers", "1")
LATEST = 0.6
"""Most seconds after the beginning of a stage at which the search is killed in it."""

TIMEOUT = 900
"""Seconds after which a search that does not end is a fault."""


@dataclass
class Outcome:
    """Kills by stage, and what did not hold."""

    kills: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0


def kill_stages(at: Path, backend: str, storage: bool, kills: int, seed: int) -> Outcome:
    """Kill a search `kills` times, in one stage after the other, and compare its end."""
    draw, began, outcome = random.Random(seed), time.monotonic(), Outcome()
    whole, folder = at / "whole", at / "killed"
    run(command(whole, backend, at / "whole.db" if storage else None))
    begin = command(folder, backend, at / "killed.db" if storage else None)
    finished: dict[int, Any] = {}
    for stage in targets(kills):
        resumed = (folder / "config.yaml").exists()
        arguments = ("resume", str(folder)) if resumed else begin
        if not killed(arguments, folder, stage, draw.uniform(0, LATEST)):
            break  # it has ended
        outcome.kills[stage] += 1
        outcome.faults += lost(folder, finished)
    run(("resume", str(folder)))
    outcome.faults += [f"{path.name} was left" for path in left(folder)]  # before it is read
    outcome.faults += differences(Study(whole), Study(folder))
    outcome.faults += [f"trial {n} had ended and was started again" for n in again(folder)]
    outcome.seconds = time.monotonic() - began
    return outcome


def targets(kills: int) -> list[str]:
    """Stages to kill in, in their order, each about as often as the others."""
    each, more = divmod(kills, len(STAGES))
    return [s for at, s in enumerate(STAGES) for _ in range(each + (at < more))]


def command(folder: Path, backend: str, storage: Path | None) -> tuple[str, ...]:
    where = ("--address", "local") if backend == "ray" else ()
    database = () if storage is None else ("--storage", f"sqlite:///{storage}")
    return (*SEARCH, "--backend", backend, *where, *database, "--out", str(folder))


def run(arguments: tuple[str, ...]) -> None:
    subprocess.run(
        [sys.executable, "-m", "autotune", *arguments],
        check=True,
        timeout=TIMEOUT,
        stdout=subprocess.DEVNULL,
    )


def killed(arguments: tuple[str, ...], folder: Path, stage: str, seconds: float) -> bool:
    """Run a search until `seconds` after a stage begins, and kill it; False if it ends before.

    If this stage is over already, it is killed in the next one that begins.
    """
    before = len(events(folder))
    process = subprocess.Popen(
        [sys.executable, "-m", "autotune", *arguments],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
    )
    wanted, deadline = STAGES[STAGES.index(stage) :], time.monotonic() + TIMEOUT
    while process.poll() is None and not reached(folder, before, wanted):
        if time.monotonic() > deadline:
            break
        time.sleep(0.01)
    time.sleep(seconds)
    if process.poll() is not None:
        return False
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return True


def reached(folder: Path, before: int, wanted: tuple[str, ...]) -> bool:
    """Whether one of these stages has begun since there were `before` events."""
    if wanted[0] == "begin":
        return (folder / "config.yaml").exists()
    return any(event.get("stage") in wanted for event in events(folder)[before:])


def events(folder: Path) -> list[dict[str, Any]]:
    file = folder / "log.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    whole = [line for line in lines if line.endswith("}")]
    return [json.loads(line) for line in whole]


def lost(folder: Path, finished: dict[int, Any]) -> list[str]:
    """Trials whose end was recorded at an earlier kill and is not anymore, or is another one."""
    if not (folder / "log.jsonl").exists():
        return []  # nothing was recorded yet
    now = {t.number: (str(t.plan), t.value) for t in Study(folder).trials if t.is_complete}
    faults = [f"trial {n} was lost" for n, end in finished.items() if now.get(n) != end]
    finished.update(now)
    return faults


def differences(whole: Study, one: Study) -> list[str]:
    """What differs between the ends of two searches, but for times."""
    return [
        f"{name} differ: {before} before, {after} now"
        for name, read in READ.items()
        if (before := read(whole)) != (after := read(one))
    ]


READ = {
    "trials": lambda study: [
        (t.number, t.state_name, str(t.plan), dict(t.hyperparameters), t.value, t.curve)
        for t in study.trials
    ],
    "baselines": lambda study: {
        name: (str(one.plan), one.value, dict(one.test)) for name, one in study.baselines.items()
    },
    "preparations": lambda study: study.preparation and study.preparation.to_json(),
    "answers": lambda study: study.final and replace(study.final, metrics={}, against=()),
    "policies": lambda study: study.policy and replace(study.policy, seconds=0.0),
}


def again(folder: Path) -> list[int]:
    """Trials that were started after they had ended."""
    ended, started = set[int](), list[int]()
    for event in events(folder):
        if event["kind"] == "start" and event["number"] in ended:
            started.append(event["number"])
        if event["kind"] == "end":
            ended.add(event["number"])
    return started


def left(folder: Path) -> list[Path]:
    """Files of running work, none of which may be left."""
    names = ("*.checkpoint", "lease.json", "study.db-wal")
    return [path for name in names for path in folder.rglob(name)]


def report(kills: int, backends: list[str]) -> str:
    rows, faults, stages = list[list[str]](), list[str](), Counter[str]()
    for backend in backends:
        for storage in (False, True):
            seed = random.SystemRandom().randrange(10**6)
            with TemporaryDirectory() as at:
                outcome = kill_stages(Path(at), backend, storage, kills, seed)
            place = "elsewhere" if storage else "in the run folder"
            total, number = sum(outcome.kills.values()), len(outcome.faults)
            stages += outcome.kills
            faults += [f"{backend}, {place}, seed {seed}: {fault}" for fault in outcome.faults]
            rows.append(
                [backend, place, str(total), str(number), f"{outcome.seconds:.0f}", str(seed)]
            )
            print(rows[-1], dict(outcome.kills), outcome.faults, flush=True)
    header = ["backend", "database", "kills", "faults", "seconds", "seed"]
    by_stage = ", ".join(f"{stage} {stages[stage]}" for stage in STAGES)
    text = (
        "Searches by command with one worker, kill -9 of all their processes up to "
        f"{LATEST} s after a stage begins, then `resume`. Kills by stage: {by_stage}. Faults are "
        "an end that differs from that of an uninterrupted search (plans, values, curves, "
        "baselines, the preparation, the policy, the answer and its test), ended trials that were "
        "lost or started again, and files that were left."
    )
    return with_faults(text, header, rows, faults)


if __name__ == "__main__":
    about = __doc__.splitlines()[0]
    measure_kills("Kills in every stage", about, report, backends=BACKENDS, kills=18)
