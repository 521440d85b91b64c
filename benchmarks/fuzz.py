"""Damaged files and hostile requests: a hundred thousand mutations of everything that is read.

Delta files, PEFT adapters, configurations, search spaces, input descriptions, images, arrays,
weights, run folders, checkpoints and requests of the server. Each must be refused with one of
autotune's errors (a request with a status below 500) or do no harm: no other exception, nothing
above ten seconds, less than 2 GB of memory, the backbone bitwise unchanged, no process started,
nothing connected to, imported or unpickled, and no file changed anywhere, but for copies of
databases in the temporary folder. `python fuzz.py --commands 2000` tries commands, too.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import os
import random
import shutil
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import fuzz_kinds as kinds
from fuzz_commands import Warm, outcome_of, plan_of, words
from fuzz_watch import SCRATCH, Listing, Watch, differences, listing
from results import table, write_section

from autotune.backbones import load_backbone
from autotune.backbones.base import Backbone, fingerprint
from autotune.errors import AutotuneError
from autotune.utils.time_limit import OutOfTime, time_limit

N, SEED = 100_000, 0
SECONDS = 10
"""Time for one mutation; more is a hang."""

MEMORY = 2 * 10**9
"""Bytes of memory that reading may take, with the libraries and the backbone."""

EVERY = 500
"""Mutations after which the backbone and all files are compared with what they were."""

FINE = ("refused", "no harm")
"""Outcomes that are no faults."""

COMMANDS = "by command"
ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Tally:
    """What came of the mutations of a kind."""

    name: str
    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    slowest: float = 0.0
    peak: int = 0
    """Largest resident memory meanwhile, in bytes."""

    @property
    def faults(self) -> dict[str, int]:
        return {outcome: n for outcome, n in self.outcomes.items() if outcome not in FINE}

    def row(self) -> list[str]:
        return [
            self.name,
            *(f"{self.outcomes[kind]:,}" for kind in FINE),
            f"{sum(self.faults.values()):,}",
            f"{self.slowest:.1f}",
            f"{self.peak / 1e6:,.0f}",
            f"{self.seconds:.0f}",
        ]


@dataclass
class Sandbox:
    """Folders in which everything happens, and what may not change meanwhile."""

    root: Path
    backbone: Backbone
    kept: Path | None
    """Folder that the content of the first faults of each sort is written to."""

    watch: Watch = field(init=False)

    def __post_init__(self) -> None:
        self.watch = Watch(self.root / "tmp")
        self._fingerprint = self._now()

    def _now(self) -> str:
        return fingerprint(dict(self.backbone.network.state_dict()))

    def try_many(self, kind: kinds.Kind, n: int, seed: int) -> Tally:
        """Read damaged files of a kind and count what happens."""
        tally, draw, began = (
            Tally(kind.name),
            random.Random(f"{seed} {kind.name}"),
            time.monotonic(),
        )
        for name, file in kind.files.items():  # imports modules that are loaded on first use
            kind.put(name, file.content)
            if (outcome := read(kind, name)) != "no harm":
                tally.outcomes[f"{name} is intact and was {outcome}"] += 1
        gc.collect()
        before = self.files(kind)
        forget_peak()
        for at in range(n):
            name = draw.choice(list(kind.files))
            damaged = draw.choice(kind.files[name].mutations)(kind.files[name].content, draw)
            self._try_one(kind, name, damaged, tally)
            if at % EVERY == EVERY - 1 or at == n - 1:
                self._compare(kind, before, tally)
        tally.peak, tally.seconds = peak(), time.monotonic() - began
        if tally.peak > MEMORY:
            tally.outcomes[f"more than {MEMORY / 1e9:.0f} GB of memory"] += 1
        return tally

    def _try_one(self, kind: kinds.Kind, name: str, damaged: bytes, tally: Tally) -> None:
        kind.put(name, damaged)
        inside, start = listing(kind.folder), time.monotonic()
        with self.watch.on():
            outcome = read(kind, name)
        seconds = time.monotonic() - start
        tally.slowest = max(tally.slowest, seconds)
        if seconds > SECONDS:
            outcome = f"hung: more than {SECONDS} s"
        changes = [f"changed: {path}" for path in differences(inside, listing(kind.folder))]
        for fault in (*self.watch.seen, *changes):
            outcome = f"forbidden: {fault}"
        self.watch.seen.clear()
        self._keep(kind, name, damaged, outcome, tally)
        tally.outcomes[outcome] += 1

    def _keep(
        self, kind: kinds.Kind, name: str, damaged: bytes, outcome: str, tally: Tally
    ) -> None:
        if self.kept is not None and outcome not in (*FINE, *tally.outcomes):
            file = self.kept / f"{kind.name} {len(tally.outcomes)} {name.replace('/', '_')}"
            file.write_bytes(damaged)
            print(f"{file}: {outcome}", flush=True)

    def files(self, kind: kinds.Kind | None = None) -> Listing:
        """All files that may not change: the sandbox, and the repository with its package."""
        without = () if kind is None else (kind.folder,)
        return listing(self.root, ROOT, without=(*without, ROOT / ".git", ROOT / "benchmarks"))

    def _compare(self, kind: kinds.Kind, before: Listing, tally: Tally) -> None:
        expect_progress()
        gc.collect()
        scratch = f"{self.root}/tmp/{SCRATCH}"
        for path in differences(before, self.files(kind)):
            if not path.startswith(scratch):
                tally.outcomes[f"changed: {path}"] += 1
        if self._now() != self._fingerprint:
            tally.outcomes["the backbone changed"] += 1
            raise SystemExit("the backbone changed")

    # by command

    def try_commands(
        self, known: dict[str, kinds.Kind], warm: Warm, n: int, seed: int, only: list[str]
    ) -> Tally:
        """Run commands on damaged files and count what happens."""
        tally, draw, began = Tally(COMMANDS), random.Random(f"{seed} commands"), time.monotonic()
        for trial, command in plan_of(n, draw):
            kind = known[trial.kind]
            names = [name for name in kind.files if name.startswith(trial.names)]
            name = draw.choice(names)
            damaged = draw.choice(kind.files[name].mutations)(kind.files[name].content, draw)
            if not only or kind.name in only:
                self._try_command(kind, name, damaged, command, warm, tally)
        tally.seconds = time.monotonic() - began
        print(" | ".join(tally.row()), tally.faults, flush=True)
        return tally

    def _try_command(
        self, kind: kinds.Kind, name: str, damaged: bytes, command: str, warm: Warm, tally: Tally
    ) -> None:
        expect_progress()
        out = kind.folder / "out"
        remove(out)
        remove(self.root / "cache" / "runs")  # a run that this user resumed is not one of others
        kind.put(name, damaged)
        writes = "{out}" in command or command.startswith("resume")
        without = (self.root / "cache" / "runs", *(kind.folder for _ in range(writes)))
        before = listing(self.root, without=(*without, *warm.streams))
        ended = warm.run(*words(command, kind, name, out))
        tally.slowest, tally.peak = max(tally.slowest, ended.seconds), max(tally.peak, ended.peak)
        outcome = outcome_of(ended)
        changes = differences(before, listing(self.root, without=(*without, *warm.streams)))
        if changes and not outcome.startswith("hung"):  # who is killed removes nothing
            outcome = f"changed: {changes[0]}"
        if outcome not in FINE:
            outcome = f"{command}: {outcome}"
        self._keep(kind, name, damaged, outcome, tally)
        tally.outcomes[outcome] += 1


def remove(path: Path) -> None:
    """Remove a file or a folder, if there is one."""
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def read(kind: kinds.Kind, name: str) -> str:
    """What comes of reading a file that is in place."""
    try:
        with time_limit(SECONDS):
            kind.read(name)
    except AutotuneError:
        return "refused"
    except OutOfTime:
        return f"hung: more than {SECONDS} s"
    except Exception as error:
        return f"crashed: {type(error).__name__} {place(error)}"
    return "no harm"


def place(error: BaseException) -> str:
    """Last line of the package that an error passed."""
    frames = traceback.extract_tb(error.__traceback__)
    last = [frame for frame in frames if f"{ROOT}/autotune/" in frame.filename][-1:]
    return f"at {Path(last[0].filename).name}:{last[0].lineno}" if last else "of a library"


def expect_progress() -> None:
    """End this process with a traceback if this is not called again: a hang that no alarm ends."""
    faulthandler.dump_traceback_later(60 * SECONDS, exit=True)


def forget_peak() -> None:
    """Let the kernel measure the largest resident memory of this process anew."""
    Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """Largest resident memory since `forget_peak`, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024


@contextmanager
def sandbox() -> Iterator[Path]:
    """Folder with the home, temporary, cache and working folders of everything that runs."""
    with TemporaryDirectory() as at:
        root = Path(at).resolve()
        places = {"HOME": "home", "TMPDIR": "tmp", "AUTOTUNE_CACHE": "cache"}
        for variable, name in {**places, "": "work"}.items():
            (root / name).mkdir()
            os.environ |= {variable: str(root / name)} if variable else {}
        os.environ["AUTOTUNE_LEASE_SETTLE"] = "0"
        tempfile.tempdir = str(root / "tmp")
        former = Path.cwd()
        os.chdir(root / "work")
        try:
            yield root
        finally:
            os.chdir(former)
            tempfile.tempdir = None


def report(tallies: list[Tally], seconds: float) -> str:
    header = ["kind", "refused", "no harm", "faults", "slowest, s", "peak memory, MB", "all, s"]
    faults = [
        f"\n- {tally.name}: {fault}: {n:,}"
        for tally in tallies
        for fault, n in tally.faults.items()
    ]
    n_commands = sum(sum(t.outcomes.values()) for t in tallies if t.name == COMMANDS)
    total = sum(sum(tally.outcomes.values()) for tally in tallies) - n_commands
    peaks = max(tally.peak for tally in tallies) / 1e9
    return (
        f"{total:,} mutations in process and {n_commands:,} by command, in {seconds / 60:.0f} "
        f"minutes on one core; peak memory {peaks:.2f} GB. Commands run "
        "in processes of their own, which are forked from one that has imported the libraries.\n\n"
        + table(header, [tally.row() for tally in tallies])
        + "".join(["\n", *faults] if faults else [])
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=N)
    parser.add_argument("--commands", type=int, default=0)
    parser.add_argument("--only", default="", help="comma-separated kinds")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--faults", type=Path, help="folder for the content of faults")
    arguments = parser.parse_args()
    kept = arguments.faults.resolve() if arguments.faults else None
    if kept:
        kept.mkdir(parents=True, exist_ok=True)
    only = [name.strip() for name in arguments.only.split(",") if name.strip()]
    warnings.simplefilter("ignore")
    began = time.monotonic()
    with sandbox() as root:
        tallies = run(root, arguments.n, arguments.commands, arguments.seed, only, kept)
    write_section("Damaged files", report(tallies, time.monotonic() - began))


def run(
    root: Path, n: int, n_commands: int, seed: int, only: list[str], kept: Path | None
) -> list[Tally]:
    """Try every kind in process, then commands."""
    kinds.short_run(root / "run")
    kinds.interrupted_run(root / "interrupted")
    backbone, tallies, known = load_backbone("builtin:digits"), list[Tally](), {}
    box = Sandbox(root, backbone, kept)
    for kind in kinds.all_kinds(root, backbone):
        known[kind.name] = kind
        if kind.name in kinds.SHARES and (not only or kind.name in only):
            tallies.append(box.try_many(kind, round(kinds.SHARES[kind.name] * n), seed))
            print(" | ".join(tallies[-1].row()), tallies[-1].faults, flush=True)
    if n_commands:
        with Warm(root, SECONDS) as warm:
            tallies.append(box.try_commands(known, warm, n_commands, seed, only))
    return tallies


if __name__ == "__main__":
    main()
