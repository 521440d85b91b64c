"""Damaged files: a hundred thousand mutations of a delta file and of a PEFT adapter.

Each is read and, if that succeeds, attached to its backbone. It must be refused with one of
autotune's errors or do no harm: the backbone is bitwise unchanged afterwards, no process is
started, and nothing is imported, unpickled or written. Any other outcome is counted by kind.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from results import table, write_section

from autotune.backbones import load_backbone
from autotune.backbones.base import Backbone, fingerprint
from autotune.deltas.apply import tuned
from autotune.deltas.artifact import Artifact, from_bytes
from autotune.deploy.export.base import Subject, written
from autotune.deploy.export.from_peft import import_peft
from autotune.deploy.export.peft import Peft
from autotune.errors import AutotuneError
from autotune.problem.job import Job
from autotune.problem.plan import Choice, Plan
from autotune.run.settings import read_settings
from autotune.session.setup import prepare_search

N = 100_000
FORBIDDEN = ("exec", "compile", "import", "os.system", "subprocess.Popen", "pickle.find_class")
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
        if event == "open" and set(str(arguments[1] or "r")) & set("wax+"):
            self.seen[f"open {arguments[0]!r} {arguments[1]}"] += 1


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


# mutations


def flipped(content: bytes, draw: random.Random) -> bytes:
    """Flip some bits, mostly in the header, which no digest protects."""
    end = 8 + int.from_bytes(content[:8], "little")
    damaged = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 8))):
        at = draw.randrange(end if draw.random() < 0.8 else len(content))
        damaged[at] ^= 1 << draw.randrange(8)
    return bytes(damaged)


def cut(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content))]


def moved(content: bytes, draw: random.Random) -> bytes:
    """Copy a piece to another place."""
    a, b, n = (draw.randrange(len(content)) for _ in range(3))
    n = n % 64 + 1
    return content[:b] + content[a : a + n] + content[b + draw.choice((0, n)) :]


def header_of(content: bytes) -> tuple[dict[str, object], bytes]:
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def with_header(header: object, rest: bytes) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + rest


VALUES: tuple[object, ...] = (
    None, True, -1, 0, 2**31, 2**63, 1e308, "", "x" * 10_000, "../../etc/passwd", "\0",
    "__import__('os').system('true')", [], {}, [[]], {"a": {"b": []}}, "frozen", "layer1.0",
)  # fmt: skip


def rewritten(content: bytes, draw: random.Random) -> bytes:
    """Replace a value somewhere in the header, or in the JSON inside it, by another."""
    header, rest = header_of(content)
    at = draw.choice(list(header))
    if at != "__metadata__" or draw.random() < 0.1:
        header[at if draw.random() < 0.7 else str(draw.choice(VALUES))] = draw.choice(VALUES)
        return with_header(header, rest)
    metadata: dict[str, str] = header["__metadata__"]  # type: ignore[assignment]
    key = draw.choice(list(metadata))
    try:
        metadata[key] = json.dumps(_changed(json.loads(metadata[key]), draw))
    except ValueError:  # plain text
        metadata[key] = str(draw.choice(VALUES))
    return with_header(header, rest)


def _changed(value: object, draw: random.Random) -> object:
    if isinstance(value, dict) and value and draw.random() < 0.8:
        key = draw.choice(list(value))
        if draw.random() < 0.2:
            return {**value, str(draw.choice(VALUES)): value[key]}
        return {**value, key: _changed(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.8:
        at = draw.randrange(len(value))
        return [*value[:at], _changed(value[at], draw), *value[at + 1 :]]
    return draw.choice(VALUES)


def lengthened(content: bytes, draw: random.Random) -> bytes:
    """Write a wrong length of the header."""
    length = draw.choice((0, 1, 2**20, 2**31, 2**62, 2**64 - 1, draw.randrange(2 * len(content))))
    return length.to_bytes(8, "little") + content[8:]


MUTATIONS = (flipped, flipped, cut, moved, rewritten, rewritten, rewritten, lengthened)


# readers


def put_on(backbone: Backbone, watch: Watch) -> Callable[[bytes], None]:
    inputs = torch.zeros(1, 1, 8, 8)

    def run(content: bytes) -> None:
        with (
            watch.on(),
            tuned(backbone, from_bytes(content, "the file")) as network,
            torch.no_grad(),
        ):
            network(inputs)

    return run


def adapter_in(folder: Path, backbone: Backbone, watch: Watch) -> Callable[[bytes], None]:
    def run(content: bytes) -> None:
        (folder / "adapter_model.safetensors").write_bytes(content)
        with watch.on():
            import_peft(folder, backbone)

    return run


def tried(
    content: bytes, run: Callable[[bytes], None], backbone: Backbone, n: int, watch: Watch
) -> Counter[str]:
    """Number of mutations with each outcome, and of forbidden events."""
    run(content)  # imports modules that are loaded on first use
    watch.seen.clear()
    outcomes: Counter[str] = Counter()
    before = fingerprint(dict(backbone.network.state_dict()))
    draw = random.Random(0)
    for at in range(n):
        damaged = draw.choice(MUTATIONS)(content, draw)
        try:
            run(damaged)
            outcomes["no harm"] += 1
        except AutotuneError:
            outcomes["refused"] += 1
        except Exception as error:
            outcomes[f"crashed: {type(error).__name__}: {str(error)[:80]}"] += 1
        if at % 100 == 0 and fingerprint(dict(backbone.network.state_dict())) != before:
            outcomes["the backbone changed"] += 1
            break
    return outcomes + Counter({f"forbidden: {event}": n for event, n in watch.seen.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=N)
    n = parser.parse_args().n
    backbone, watch, began = load_backbone("builtin:digits"), Watch(), time.perf_counter()
    content = delta_file(backbone)
    deltas = tried(content, put_on(backbone, watch), backbone, n - n // 10, watch)
    artifact: Artifact = from_bytes(content, "the file")
    with TemporaryDirectory() as folder:
        subject = Subject(backbone, artifact, read_settings({}))
        written(Peft(), subject, Path(folder) / "adapter")
        adapter = Path(folder) / "adapter"
        run = adapter_in(adapter, backbone, watch)
        weights = (adapter / "adapter_model.safetensors").read_bytes()
        adapters = tried(weights, run, backbone, n // 10, watch)
    kinds = sorted({*deltas, *adapters})
    rows = [[kind, str(deltas[kind]), str(adapters[kind])] for kind in kinds]
    seconds = time.perf_counter() - began
    text = f"{n:,} mutations in {seconds:.0f} s.\n\n"
    write_section("Damaged files", text + table(["outcome", "deltas", "adapters"], rows))


if __name__ == "__main__":
    main()
