"""Damaged files and hostile requests: a hundred thousand mutations of everything that is read.

Delta files, PEFT adapters, configurations, search spaces, input descriptions, images, arrays, run
folders and requests of the server. Each must be refused with one of autotune's errors (a request
with a status below 500) or do no harm: no other exception, nothing above ten seconds, the backbone
bitwise unchanged, no process started, nothing imported or unpickled, nothing written outside of
the folder that the file is in. `python fuzz.py --commands 2000` tries files by command, too.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import resource
import shutil
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from fastapi.testclient import TestClient
from mutations import BYTES, TENSORS, TEXT, Mutation
from PIL import Image
from results import table, write_section

import autotune
from autotune.backbones import load_backbone
from autotune.backbones.base import Backbone, fingerprint
from autotune.deltas.apply import tuned
from autotune.deltas.artifact import from_bytes
from autotune.deploy.export.base import Subject, written
from autotune.deploy.export.from_peft import import_peft
from autotune.deploy.export.peft import Peft
from autotune.deploy.serve.app import make_app
from autotune.deploy.serve.limits import Limits
from autotune.deploy.serve.service import Service
from autotune.errors import AutotuneError
from autotune.problem.job import Job
from autotune.problem.plan import Choice, Plan
from autotune.run.notebook import Study
from autotune.run.settings import load_input, load_space, read_settings, space_folder
from autotune.session.setup import prepare_search
from autotune.tasks import load_task
from autotune.utils.time_limit import OutOfTime, time_limit

N = 100_000
SECONDS = 10
"""Time for one mutation; more is a hang."""

FORBIDDEN = ("exec", "compile", "import", "os.system", "subprocess.Popen", "pickle.find_class")
CHANGES = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink")
PLAN = Plan(
    {
        "stem": Choice.of("lowrank", rank=2),
        "layer1.0": Choice.of("scale"),
        "layer3.1": Choice.of("subtune", what="norms") + Choice.of("lowrank", rank=1),
    }
)


class Watch:
    """Audit hook that counts events of the interpreter that a file must not cause."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.is_on = False
        self.folder = ""
        """Folder in which files may change."""

        sys.addaudithook(self._hear)

    @contextmanager
    def on(self) -> Iterator[None]:
        self.is_on = True
        try:
            yield
        finally:
            self.is_on = False

    def _hear(self, event: str, arguments: tuple[object, ...]) -> None:
        if not self.is_on:
            return
        if event in FORBIDDEN:
            self.seen[f"{event} {str(arguments)[:60]}"] += 1
        writes = event == "open" and set(str(arguments[1] or "r")) & set("wax+")
        if (writes or event in CHANGES) and not self._is_inside(arguments[0]):
            self.seen[f"{event} {arguments[0]!r}"] += 1

    def _is_inside(self, path: object) -> bool:
        return isinstance(path, (str, Path)) and str(path).startswith((self.folder, "/dev/null"))


@dataclass
class Target:
    """Kind of file: its content, what changes it, and what reads it."""

    name: str
    share: float
    """Part of all mutations."""

    contents: Mapping[str, bytes]
    """Name → content of intact files."""

    mutations: tuple[Mutation, ...]
    read: Callable[[str, bytes], object]
    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    slowest: float = 0.0

    def try_many(self, n: int, watch: Watch, is_unchanged: Callable[[], bool]) -> None:
        """Read mutated files and count what happens."""
        for name, content in self.contents.items():
            self._try_one(name, content)  # imports modules that are loaded on first use
        draw, began = random.Random(self.name), time.perf_counter()
        watch.seen.clear()
        names = list(self.contents)
        for at in range(n):
            name = draw.choice(names)
            damaged = draw.choice(self.mutations)(self.contents[name], draw)
            start = time.perf_counter()
            with watch.on():
                outcome = self._try_one(name, damaged)
            self.slowest = max(self.slowest, time.perf_counter() - start)
            self.outcomes[outcome] += 1
            if at % 500 == 0 and not is_unchanged():
                self.outcomes["the backbone changed"] += 1
                break
        self.outcomes += Counter({f"forbidden: {event}": n for event, n in watch.seen.items()})
        self.seconds = time.perf_counter() - began

    def _try_one(self, name: str, content: bytes) -> str:
        try:
            with time_limit(SECONDS):
                self.read(name, content)
        except AutotuneError:
            return "refused"
        except OutOfTime:
            return f"hung: more than {SECONDS} s"
        except Exception as error:
            return f"crashed: {type(error).__name__}: {str(error)[:80]}"
        return "no harm"


# what is read


def delta_file(backbone: Backbone) -> bytes:
    """Content of the delta file of one short training."""
    sources = {"backbone": "builtin:digits", "task": "builtin:digits"}
    settings = read_settings({**sources, "epochs": 1})
    setup = prepare_search(settings, backbone, settings.task)
    setup.engine.prepare(setup.engine.statistics())
    rates = {f"lr:{method}": 0.01 for method in ("head", *PLAN.methods())}
    *_, last = setup.engine(Job("trial 0", PLAN, rates, seed=0, number=0))
    setup.engine.close()
    assert last.artifact is not None
    return last.artifact


def deltas(backbone: Backbone, content: bytes) -> Target:
    inputs = torch.zeros(1, 1, 8, 8)

    def read(_: str, content: bytes) -> None:
        with tuned(backbone, from_bytes(content, "the file")) as network, torch.no_grad():
            network(inputs)

    return Target("delta files", 0.35, {"delta": content}, TENSORS, read)


def adapters(folder: Path, backbone: Backbone, content: bytes) -> Target:
    subject = Subject(backbone, from_bytes(content, "the file"), read_settings({}))
    written(Peft(), subject, folder / "adapter")
    file = folder / "adapter" / "adapter_model.safetensors"

    def read(_: str, content: bytes) -> None:
        file.write_bytes(content)
        import_peft(file.parent, backbone)

    return Target("adapters", 0.05, {"weights": file.read_bytes()}, TENSORS, read)


def texts(folder: Path) -> Iterator[Target]:
    """Configurations, search spaces and input descriptions."""
    config = autotune.run.settings.write_settings(read_settings({})).encode()
    spaces = {file.stem: file.read_bytes() for file in space_folder().glob("*.yaml")}
    inputs = {
        "image": b"size: [32, 32]\nchannels: 3\nmean: [0.5, 0.5, 0.5]\nstd: [0.5, 0.5, 0.5]\n",
        "array": b"shape: [16]\ndtype: float32\n",
    }

    def in_file(read: Callable[[str], object], _: str, content: bytes) -> None:
        (folder / "file.yaml").write_bytes(content)
        read(str(folder / "file.yaml"))

    read_config = partial(in_file, lambda file: read_settings({}, file=file))
    yield Target("configurations", 0.15, {"config": config}, TEXT, read_config)
    yield Target("search spaces", 0.1, spaces, TEXT, partial(in_file, load_space))
    yield Target("input descriptions", 0.05, inputs, TEXT, partial(in_file, load_input))


def images(folder: Path) -> Target:
    """One damaged image among others, of every common format."""
    root, contents = folder / "images", dict[str, bytes]()
    for kind in ("a", "b"):
        (root / kind).mkdir(parents=True)
        for at in range(4):
            noise = np.random.default_rng(at).integers(0, 255, (16, 16, 3), np.uint8)
            Image.fromarray(noise).save(root / kind / f"{at}.png")
    for suffix in ("png", "jpg", "gif", "bmp", "tif", "webp"):
        image = Image.open(root / "a" / "0.png").convert("P" if suffix == "gif" else "RGB")
        stream = io.BytesIO()
        image.save(stream, format={"jpg": "jpeg", "tif": "tiff"}.get(suffix, suffix))
        contents[suffix] = stream.getvalue()

    def read(suffix: str, content: bytes) -> None:
        file = root / "a" / f"damaged.{suffix}"
        file.write_bytes(content)
        try:
            task = load_task(f"imagefolder:{root}", autotune.InputDescription(size=(8, 8)))
            task.split(0)
        finally:
            file.unlink()

    return Target("images", 0.1, contents, BYTES, read)


def arrays(folder: Path) -> Target:
    stream = io.BytesIO()
    x = np.random.default_rng(0).random((30, 4), np.float32)
    np.savez(stream, x_train=x, y_train=np.arange(30) % 3)

    def read(_: str, content: bytes) -> None:
        (folder / "data.npz").write_bytes(content)
        load_task(f"npz:{folder / 'data.npz'}").split(0)

    return Target("arrays", 0.08, {"npz": stream.getvalue()}, BYTES, read)


def run_folders(folder: Path) -> Target:
    """An ended run, one of whose files is damaged; its status and report are asked for."""
    run = folder / "run"
    settings = {"strategy": "random", "trials": 2, "epochs": 1, "out": str(run)}
    autotune.search("builtin:digits", "builtin:digits", "1%", **settings)
    names = ("config.yaml", "origins.json", "study.db", "log.jsonl")
    contents = {name: (run / name).read_bytes() for name in names}
    contents["lease.json"] = json.dumps({"host": "x", "pid": 1, "start": 0.0}).encode()

    def read(name: str, content: bytes) -> None:
        damaged = folder / "damaged"
        shutil.rmtree(damaged, ignore_errors=True)
        shutil.copytree(run, damaged)
        (damaged / name).write_bytes(content)
        study = Study(damaged)
        json.dumps(study.status(), allow_nan=False)
        study.report("markdown")

    return Target("run folders", 0.02, contents, TEXT, read)


def requests(folder: Path, backbone: Backbone, content: bytes) -> Target:
    """Bodies of the server's requests; a status of 500 or more counts as a crash."""
    (folder / "allowed").mkdir()
    (folder / "allowed" / "delta.safetensors").write_bytes(content)
    service = Service(backbone, Limits(bytes=200_000, examples=8), folder / "allowed")
    service.put("a", "a.safetensors", from_bytes(content, "the file"))
    client = TestClient(make_app(service), base_url="http://localhost").__enter__()
    rows = np.random.default_rng(0).random((2, 1, 8, 8)).round(3).tolist()
    bodies = {
        "/predict": json.dumps({"task": "a", "inputs": rows}).encode(),
        "/predict/a": json.dumps({"inputs": rows}).encode(),
        "/tasks/b": json.dumps({"path": "delta.safetensors"}).encode(),
    }

    def read(path: str, content: bytes) -> None:
        send = client.put if path == "/tasks/b" else client.post
        answer = send(path, content=content, headers={"Content-Type": "application/json"})
        if answer.status_code >= 500:
            raise RuntimeError(f"status {answer.status_code} of {path}: {answer.text[:60]}")
        if path == "/tasks/b" and answer.is_success:
            client.delete(path)

    return Target("requests", 0.1, bodies, TEXT, read)


# by command


def by_command(folder: Path, targets: Mapping[str, Target], n: int) -> Counter[str]:
    """Outcomes of commands on damaged files; a traceback, or an exit code above 2, is a crash."""
    commands = {
        "run folders": ("status", str(folder / "command-run")),
        "configurations": ("search", "--config", str(folder / "c.yaml"), "--dry-run"),
        "search spaces": ("units", "--space", str(folder / "c.yaml")),
        "delta files": ("inspect", str(folder / "c.safetensors")),
    }
    outcomes: Counter[str] = Counter()
    draw = random.Random("commands")
    for _ in range(n):
        target = targets[draw.choice(list(commands))]
        name = draw.choice(list(target.contents))
        damaged = draw.choice(target.mutations)(target.contents[name], draw)
        _put(folder, target.name, name, damaged)
        outcomes[_by_command(commands[target.name])] += 1
    return outcomes


def _put(folder: Path, kind: str, name: str, content: bytes) -> None:
    if kind == "run folders":
        shutil.rmtree(folder / "command-run", ignore_errors=True)
        shutil.copytree(folder / "run", folder / "command-run")
        (folder / "command-run" / name).write_bytes(content)
    else:
        suffix = "safetensors" if kind == "delta files" else "yaml"
        (folder / f"c.{suffix}").write_bytes(content)


def _by_command(arguments: tuple[str, ...]) -> str:
    command = [sys.executable, "-m", "autotune", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, timeout=6 * SECONDS)
    except subprocess.TimeoutExpired:
        return f"hung: {arguments[0]}"
    errors = done.stderr.decode(errors="replace")
    if done.returncode not in (0, 1, 2) or "Traceback" in errors:
        return f"crashed: {arguments[0]}: {done.returncode} {errors.strip()[-80:]}"
    return "no harm" if done.returncode == 0 else "refused"


def report(targets: list[Target], commands: Counter[str], seconds: float) -> str:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    total = sum(sum(target.outcomes.values()) for target in targets)
    rows = [
        [
            target.name,
            *(f"{target.outcomes[kind]:,}" for kind in ("refused", "no harm")),
            str(sum(n for kind, n in target.outcomes.items() if kind not in HARMLESS)),
            f"{target.slowest:.1f}",
            f"{target.seconds:.0f}",
        ]
        for target in targets
    ]
    bad = [
        f"- {target.name}: {kind}: {n}"
        for target in targets
        for kind, n in target.outcomes.items()
        if kind not in HARMLESS
    ]
    bad += [f"- by command: {kind}: {n}" for kind, n in commands.items() if kind not in HARMLESS]
    header = ["kind", "refused", "no harm", "faults", "slowest, s", "all, s"]
    by_command = f" By command: {dict(commands)}." if commands else ""
    return (
        f"{total:,} mutations in {seconds:.0f} s; peak memory {peak:.1f} GiB.{by_command}\n\n"
        + table(header, rows)
        + "\n\n"
        + ("\n".join(bad) or "No faults.")
    )


HARMLESS = ("refused", "no harm")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=N)
    parser.add_argument("--commands", type=int, default=0)
    parser.add_argument("--only", default="", help="comma-separated kinds")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    backbone, watch, began = load_backbone("builtin:digits"), Watch(), time.perf_counter()
    content = delta_file(backbone)
    before = fingerprint(dict(backbone.network.state_dict()))
    with TemporaryDirectory() as at:
        folder = Path(at)
        watch.folder = at
        targets = [deltas(backbone, content), adapters(folder, backbone, content), *texts(folder)]
        targets += [images(folder), arrays(folder), run_folders(folder)]
        targets.append(requests(folder, backbone, content))
        only = [name.strip() for name in arguments.only.split(",") if name.strip()]
        for target in targets:
            if not only or target.name in only:
                n = max(1, round(target.share * arguments.n))
                target.try_many(
                    n, watch, lambda: fingerprint(dict(backbone.network.state_dict())) == before
                )
                print(target.name, dict(target.outcomes), f"{target.seconds:.0f} s", flush=True)
        by_name = {target.name: target for target in targets}
        commands = by_command(folder, by_name, arguments.commands)
    seconds = time.perf_counter() - began
    write_section("Damaged files", report(targets, commands, seconds))


if __name__ == "__main__":
    main()
