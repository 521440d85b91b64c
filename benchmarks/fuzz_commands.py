"""Commands on damaged files, each in a process of its own that is forked from a warm one.

Importing torch and the other libraries takes longer than everything that a command does here, so a
process imports them once and is forked for each command. Each command is a process of its own that
runs the module `autotune` as `python -m autotune` does, up to its exit handlers.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import pkgutil
import random
import runpy
import signal
import subprocess
import sys
import threading
import time
import traceback
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from fuzz_kinds import Kind

import autotune

LIBRARIES = (
    "numpy optuna PIL.Image plotly pydantic rich.table safetensors.torch sklearn.model_selection "
    "sqlalchemy.dialects.sqlite torch torch.fx torchvision typer yaml"
).split()


@dataclass(frozen=True)
class Ended:
    """End of a command."""

    code: int
    """Exit status; negative for a signal."""

    output: str
    errors: str
    seconds: float
    peak: int
    """Largest resident memory, in bytes."""


class Warm(AbstractContextManager["Warm"]):
    """Process that has imported the libraries and is forked for each command."""

    def __init__(self, root: Path, limit: float) -> None:
        self.root = root
        self.streams = tuple(root / name for name in STREAMS)
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(limit)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # what libraries say when the warm process ends
            text=True,
            cwd=root / "work",
        )

    def run(self, *arguments: str) -> Ended:
        """Run `autotune ARGUMENTS` to its end, or kill it after the limit."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(arguments), file=self._process.stdin, flush=True)
        ended = json.loads(self._process.stdout.readline())
        output, errors = (file.read_text("utf-8", "replace") for file in self.streams)
        return Ended(output=output, errors=errors, **ended)

    def __exit__(self, *_: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


STREAMS = ("stdout.txt", "stderr.txt")
"""Files next to the working folder for what a command prints."""


def serve(limit: float) -> None:
    """Run the commands that standard input names."""
    for line in sys.stdin:
        start, process = time.monotonic(), os.fork()
        if process == 0:
            _become(json.loads(line))
        code, usage = _wait(process, start + limit)
        seconds = time.monotonic() - start
        peak = usage.ru_maxrss * 1024
        print(json.dumps({"code": code, "seconds": seconds, "peak": peak}), flush=True)


def _become(arguments: list[str]) -> NoReturn:
    """Run a command with its own streams, and end this process as Python does.

    Except that Python would free all objects one by one, which for those of torch takes seconds.
    """
    sys.argv = ["autotune", *arguments]
    _redirect()
    code = 1
    try:
        runpy.run_module("autotune", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _redirect() -> None:
    for stream, name in zip((1, 2), STREAMS, strict=True):
        file = os.open(f"../{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, stream)
        os.close(file)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)


def _wait(process: int, deadline: float) -> tuple[int, Any]:
    while True:
        ended, status, usage = os.wait4(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status), usage
        if time.monotonic() > deadline:
            os.kill(process, signal.SIGKILL)
            _, status, usage = os.wait4(process, 0)
            return os.waitstatus_to_exitcode(status), usage
        time.sleep(0.005)


def import_all() -> None:
    """Import the libraries and all of autotune, but no backend that needs more of them."""
    for name in LIBRARIES:
        importlib.import_module(name)
    for module in pkgutil.walk_packages(autotune.__path__, "autotune."):
        if module.name not in ("autotune.__main__", "autotune.study.backends.ray_actor"):
            with suppress(ImportError):
                importlib.import_module(module.name)


# what is tried


@dataclass(frozen=True)
class Trial:
    """Kind of file that is damaged, which ones of it, and the commands that read them."""

    kind: str
    weight: int
    commands: tuple[str, ...]
    """Words separated by spaces; `{}` is the file or folder, `{out}` a file to write."""

    names: tuple[str, ...] = ("",)
    """Beginnings of the names of the files."""


TRIALS = (
    Trial(
        "run folders", 30, ("status {}", "status {} --json", "report {} --format md", "config {}")
    ),
    Trial("run folders", 6, ("inspect {}", "export {} --format mask -o {out}"), ("best", "study")),
    Trial("run folders", 6, ("evaluate {}", "report {} {} --format json"), ("best", "study")),
    Trial("run folders", 5, ("export {} --trial 0 --format delta -o {out}",), ("trials", "study")),
    Trial("run folders", 4, ("export {} --trial 1 --retrain --format mask -o {out}",), ("prep",)),
    Trial("run folders", 8, ("resume {} --quiet",), ("study", "prep", "lease", "origins", "best")),
    Trial("interrupted runs", 6, ("resume {} --quiet",)),
    Trial("delta files", 10, ("inspect {}", "export {} --format merged -o {out}")),
    Trial("adapters", 6, ("inspect {}", "import {} --backbone builtin:digits -o {out}")),
    Trial("configurations", 12, ("search --config {} --dry-run", "config {}")),
    Trial("search spaces", 8, ("units --backbone builtin:digits --space {}",)),
    Trial("input descriptions", 3, ("units --backbone builtin:digits --input {}",)),
    Trial("arrays", 3, ("search --backbone builtin:digits --task npz:{} --dry-run",), ("p",)),
    Trial("images", 3, ("search --backbone builtin:digits --task imagefolder:{} --dry-run",)),
    Trial("weights", 2, ("search --backbone builtin:digits --weights {} --dry-run",), ("weights",)),
    Trial("weights", 1, ("search --policy {} --strategy policy --dry-run",), ("policy",)),
)
FOLDERS = {
    "run folders": "damaged",
    "interrupted runs": "damaged",
    "adapters": "adapter",
    "images": "",
}
"""Kinds of which a command is given a folder, not a file, and its place."""


def plan_of(n: int, draw: random.Random) -> list[tuple[Trial, str]]:
    """Which command is run on which kind of file, `n` times."""
    trials = draw.choices(TRIALS, [trial.weight for trial in TRIALS], k=n)
    return [(trial, draw.choice(trial.commands)) for trial in trials]


def words(command: str, kind: Kind, name: str, out: Path) -> list[str]:
    """Arguments of a command on a file of a kind."""
    folder = kind.folder / FOLDERS.get(kind.name, "")
    target = folder if kind.name in FOLDERS else kind.folder / name
    return [word.format(target, out=out) for word in command.split()]


def outcome_of(ended: Ended) -> str:
    """What came of a command; a traceback or an exit status above 2 is a crash."""
    if ended.code == -signal.SIGKILL:
        return f"hung: more than {ended.seconds:.0f} s"
    if ended.code not in (0, 1, 2) or "Traceback" in ended.errors:
        return f"crashed: {ended.code} {' '.join(ended.errors.split())[-100:]}"
    return "no harm" if ended.code == 0 else "refused"


if __name__ == "__main__":
    import_all()
    gc.collect()
    gc.freeze()  # so that forked processes need not copy what is here
    serve(float(sys.argv[1]))
