"""Kinds of files that autotune reads from others, what damages them and what reads them."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import mutations as m
import numpy as np
import torch
from fastapi.testclient import TestClient
from PIL import Image
from safetensors.torch import save_file

import autotune
from autotune.backbones.base import Backbone
from autotune.backbones.weights.loading import load_weights, read_weights
from autotune.deltas.apply import described, require_fits, tuned
from autotune.deltas.artifact import from_bytes, read_artifact
from autotune.deploy.export.base import Subject, written
from autotune.deploy.export.from_peft import import_peft
from autotune.deploy.export.peft import Peft
from autotune.deploy.export.subject import subject_of
from autotune.deploy.inspection import inspect_file
from autotune.deploy.serve.app import make_app
from autotune.deploy.serve.limits import Limits
from autotune.deploy.serve.service import Service
from autotune.problem.job import Job
from autotune.problem.plan import Choice, Plan
from autotune.run.notebook import Study
from autotune.run.settings import (
    load_input,
    load_space,
    read_settings,
    space_folder,
    write_settings,
)
from autotune.session.beginning import prepared_buffers
from autotune.session.setup import Setup, prepare_search
from autotune.study.checkpoint_file import pack, read_checkpoint
from autotune.study.policy.network import PolicyNetwork, read_policy
from autotune.tasks import load_task
from autotune.tasks.array_files import read_npy

PLAN = Plan(
    {
        "stem": Choice.of("lowrank", rank=2),
        "layer1.0": Choice.of("scale"),
        "layer3.1": Choice.of("subtune", what="norms") + Choice.of("lowrank", rank=1),
    }
)
SHARES = {
    "delta files": 0.26,
    "adapters": 0.08,
    "configurations": 0.13,
    "search spaces": 0.09,
    "input descriptions": 0.05,
    "images": 0.1,
    "arrays": 0.09,
    "weights": 0.04,
    "run folders": 0.03,
    "checkpoints": 0.03,
    "requests": 0.1,
}
"""Part of all mutations that each kind gets. A run folder takes longest, a tenth of a second."""


@dataclass(frozen=True)
class File:
    """Intact content of a file, and what damages it."""

    content: bytes
    mutations: tuple[m.Mutation, ...]


@dataclass
class Kind:
    """Kind of file: intact ones by name, how one is put in place and what reads it."""

    name: str
    folder: Path
    """Where the files are."""

    files: Mapping[str, File]
    read: Callable[[str], object]
    put: Callable[[str, bytes], object]

    @classmethod
    def in_folder(
        cls, name: str, folder: Path, files: Mapping[str, File], read: Callable[[str], object]
    ) -> Kind:
        """Kind whose files are read at `folder`, under their names."""

        def put(file: str, content: bytes) -> None:
            (folder / file).write_bytes(content)

        return cls(name, folder, files, read, put)

    @classmethod
    def in_memory(
        cls,
        name: str,
        folder: Path,
        files: Mapping[str, File],
        read: Callable[[str, bytes], object],
    ) -> Kind:
        """Kind whose content is passed on as bytes."""
        contents: dict[str, bytes] = {}
        return cls(
            name, folder, files, lambda file: read(file, contents[file]), contents.__setitem__
        )


@dataclass
class Trained:
    """What one short training left: its delta file, and the checkpoint after its first epoch."""

    setup: Setup
    job: Job
    delta: bytes
    checkpoint: bytes

    @classmethod
    def on(cls, backbone: Backbone) -> Trained:
        sources = {"backbone": "builtin:digits", "task": "builtin:digits"}
        setup = prepare_search(read_settings({**sources, "epochs": 2}), backbone, "builtin:digits")
        rates = {f"lr:{method}": 0.01 for method in ("head", *PLAN.methods())}
        job = Job("trial 0", PLAN, rates, seed=0, number=0)
        setup.engine.prepare(setup.engine.statistics())
        *_, last = setup.engine(job)
        setup.engine.prepare({})  # the backbone as it was, for all kinds
        first, *_ = setup.engine(job)
        assert last.artifact is not None
        return cls(setup, job, last.artifact, first.checkpoint)


def delta_files(folder: Path, backbone: Backbone, content: bytes) -> Kind:
    inputs = torch.zeros(1, 1, 8, 8)

    def read(name: str) -> None:
        artifact = read_artifact(folder / name)
        required = described(backbone, artifact)
        require_fits(required, artifact, "the file")
        with tuned(required, artifact) as network, torch.no_grad():
            network(inputs)

    files = {"delta.safetensors": File(content, m.TENSORS)}
    return Kind.in_folder("delta files", folder, files, read)


def adapters(folder: Path, backbone: Backbone, content: bytes) -> Kind:
    subject = Subject(backbone, from_bytes(content, "the file"), read_settings({}))
    written(Peft(), subject, folder / "adapter")
    whole = {file.name: file.read_bytes() for file in (folder / "adapter").iterdir()}
    weights, config = "adapter_model.safetensors", "adapter_config.json"
    files = {weights: File(whole[weights], m.TENSORS), config: File(whole[config], m.TEXT)}

    def put(name: str, content: bytes) -> None:
        for file, before in whole.items():
            (folder / "adapter" / file).write_bytes(content if file == name else before)

    def read(_: str) -> None:
        inspect_file(folder / "adapter")
        import_peft(folder / "adapter", backbone)

    return Kind("adapters", folder, files, read, put)


def configurations(folder: Path) -> Kind:
    plain = write_settings(read_settings({"backbone": "builtin:digits", "task": "builtin:digits"}))
    files = {"config.yaml": File(plain.encode(), m.TEXT)}
    return Kind.in_folder(
        "configurations",
        folder,
        files,
        lambda name: read_settings({}, file=str(folder / name)),
    )


def search_spaces(folder: Path) -> Kind:
    files = {file.name: File(file.read_bytes(), m.TEXT) for file in space_folder().glob("*.yaml")}
    return Kind.in_folder(
        "search spaces", folder, files, lambda name: load_space(str(folder / name))
    )


def input_descriptions(folder: Path) -> Kind:
    texts = {
        "image.yaml": b"size: [32, 32]\nchannels: 3\nmean: [0.5, 0.5, 0.5]\nstd: [0.5, 0.5, 0.5]\n",
        "array.yaml": b"shape: [16]\ndtype: float32\n",
    }
    files = {name: File(text, m.TEXT) for name, text in texts.items()}
    return Kind.in_folder(
        "input descriptions", folder, files, lambda name: load_input(str(folder / name))
    )


FORMATS = {"jpg": "jpeg", "tif": "tiff", "ppm": "ppm", "jp2": "jpeg2000"}


def images(folder: Path) -> Kind:
    """One damaged image among others, of every common format."""
    for kind in ("a", "b"):
        (folder / kind).mkdir()
        for at in range(4):
            noise = np.random.default_rng(at).integers(0, 255, (16, 16, 3), np.uint8)
            Image.fromarray(noise).save(folder / kind / f"{at}.png")
    files = {}
    for suffix in "png jpg gif bmp tif webp ppm ico tga".split():
        image = Image.open(folder / "a" / "0.png").convert("P" if suffix == "gif" else "RGB")
        files[f"damaged.{suffix}"] = File(_saved(image, suffix), m.IMAGE)
    deep = Image.fromarray(np.arange(256, dtype=np.uint16).reshape(16, 16) * 200)
    files["deep.png"] = File(_saved(deep, "png"), m.IMAGE)
    files["deep.tif"] = File(_saved(deep, "tif"), m.IMAGE)
    input = autotune.InputDescription(size=(8, 8))

    def put(name: str, content: bytes) -> None:
        for file in files:
            (folder / "a" / file).unlink(missing_ok=True)
        (folder / "a" / name).write_bytes(content)

    def read(_: str) -> None:
        load_task(f"imagefolder:{folder}", input).split(0)

    return Kind("images", folder, files, read, put)


def _saved(image: Image.Image, suffix: str) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format=FORMATS.get(suffix, suffix))
    return stream.getvalue()


def arrays(folder: Path) -> Kind:
    x = np.random.default_rng(0).random((30, 4), np.float32)
    plain, packed, one = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.savez(plain, x_train=x, y_train=np.arange(30) % 3)
    np.savez_compressed(packed, x_train=x, y_train=np.array(["a", "b"] * 15), x_test=x[:4],
                        y_test=np.array(["a"] * 4), group_train=np.arange(30) // 2)  # fmt: skip
    np.save(one, x)
    files = {
        "plain.npz": File(plain.getvalue(), m.NPZ),
        "packed.npz": File(packed.getvalue(), m.NPZ),
        "inputs.npy": File(one.getvalue(), m.NPY),
    }

    def read(name: str) -> None:
        if name.endswith(".npy"):
            read_npy(folder / name)
        else:
            load_task(f"npz:{folder / name}", None).split(0)

    return Kind.in_folder("arrays", folder, files, read)


def weights(folder: Path, backbone: Backbone) -> Kind:
    """State dicts and policy files."""
    state = {name: tensor.clone() for name, tensor in backbone.network.state_dict().items()}
    save_file(state, folder / "weights.safetensors")
    torch.save({"model": state, "epoch": 3}, folder / "weights.pth")
    torch.save(state, folder / "weights.pt", _use_new_zipfile_serialization=False)
    policy = PolicyNetwork(("a", "b", "c")).to_bytes({})
    kinds = {"weights.safetensors": m.TENSORS, "weights.pth": m.ZIPPED, "weights.pt": m.BYTES}
    files = {name: File((folder / name).read_bytes(), kind) for name, kind in kinds.items()}
    files["policy.safetensors"] = File(policy, m.TENSORS)
    network = type(backbone.network)()

    def read(name: str) -> None:
        if name.startswith("policy"):
            read_policy(folder / name)
        else:
            load_weights(network, read_weights(str(folder / name)), source=name)

    return Kind.in_folder("weights", folder, files, read)


RUN_FILES = {
    "config.yaml": m.TEXT,
    "origins.json": m.TEXT,
    "study.db": m.DATABASE,
    "log.jsonl": m.LINES,
    "best/plan.json": m.TEXT,
    "best/delta.safetensors": m.TENSORS,
    "prepared.safetensors": m.TENSORS,
    "trials/0000/delta.safetensors": m.TENSORS,
}
LEASE = json.dumps({"host": "x", "pid": 1, "start": 0.0, "time": 1.0}).encode()
SKIPPED = json.dumps([{"name": "a/1.png", "reason": "it is empty"}]).encode()


def short_run(run: Path) -> None:
    """Search that has ended, with statistics that were re-estimated."""
    settings: dict[str, Any] = {"strategy": "random", "trials": 2, "epochs": 1, "bnstats": "on"}
    autotune.search("builtin:digits", "builtin:digits", "1%", **settings, out=str(run))


def run_files(run: Path) -> dict[str, File]:
    """Files of a run that are damaged, one at a time."""
    files = {name: File((run / name).read_bytes(), kind) for name, kind in RUN_FILES.items()}
    files |= {"lease.json": File(LEASE, m.TEXT), "skipped.json": File(SKIPPED, m.TEXT)}
    return {**files, "study.db-wal": File(files["study.db"].content, m.BYTES)}


def put_run(run: Path, damaged: Path, name: str, content: bytes) -> None:
    """Copy a run to `damaged` with another content of one file."""
    shutil.rmtree(damaged, ignore_errors=True)
    shutil.copytree(run, damaged)
    (damaged / name).write_bytes(content)


def run_folders(folder: Path, run: Path, backbone: Backbone) -> Kind:
    """An ended run, one of whose files is damaged; what commands that look at it read."""
    damaged = folder / "damaged"

    def read(name: str) -> None:
        if name.startswith("trials"):
            subject_of(str(damaged), backbone=backbone, trial=0)
        elif name.startswith("best"):
            inspect_file(damaged)
            subject_of(str(damaged), backbone=backbone)
        elif name.startswith("prepared"):
            _prepared(damaged, backbone)
        else:
            study = Study(damaged, still=True)
            json.dumps(study.status(), allow_nan=False)
            study.report("md")

    return Kind("run folders", folder, run_files(run), read, partial(put_run, run, damaged))


def interrupted_run(run: Path) -> None:
    """Search of a small task that was killed after an epoch of its trial."""
    task = run.with_suffix(".npz")
    x = np.random.default_rng(0).integers(0, 255, (60, 8, 8), np.uint8)
    np.savez(task, x_train=x, y_train=np.arange(60) % 3)
    command = f"search --backbone builtin:digits --task npz:{task} --budget 1% --strategy random"
    command += " --trials 1 --epochs 10 --no-references --bnstats on --quiet --out"
    checkpoint = run / "trials" / "0000" / "trial.checkpoint"
    search = subprocess.Popen([sys.executable, "-m", "autotune", *command.split(), str(run)])
    while not checkpoint.exists() and search.poll() is None:
        time.sleep(0.002)
    search.kill()
    search.wait()


def interrupted_runs(folder: Path, run: Path) -> Kind:
    """The killed search, one of whose files is damaged; for commands alone."""
    kinds = {
        "study.db": m.DATABASE,
        "prepared.safetensors": m.TENSORS,
        "trials/0000/trial.checkpoint": m.CHECKPOINT,
    }
    files = {name: File((run / name).read_bytes(), kind) for name, kind in kinds.items()}
    put = partial(put_run, run, folder / "damaged")
    return Kind("interrupted runs", folder, files, lambda _: None, put)


@dataclass
class _WithoutDigests:
    """Records of a run as early versions wrote them, or a stranger: without digests of files."""

    records: Any
    folder: Any = field(init=False)
    preparation: Any = field(init=False)

    def __post_init__(self) -> None:
        self.folder, self.preparation = self.records.folder, self.records.preparation

    def attribute(self, name: str) -> None:
        return None


def _prepared(run: Path, backbone: Backbone) -> None:
    records: Any = _WithoutDigests(Study(run, still=True)._records)
    prepared_buffers(records, backbone.network)


def checkpoints(folder: Path, trained: Trained) -> Kind:
    """A checkpoint that a job resumes from, also with a digest that is right."""
    file = File(pack(trained.checkpoint, {}), m.CHECKPOINT)

    def read(name: str) -> None:
        unpacked = read_checkpoint(folder / name, "the job")
        if unpacked is not None:
            job = replace(trained.job, checkpoint=unpacked[1])
            progresses = trained.setup.engine(job)
            next(progresses)
            progresses.close()

    return Kind.in_folder("checkpoints", folder, {"trial.checkpoint": file}, read)


def requests(folder: Path, backbone: Backbone, content: bytes) -> Iterator[Kind]:
    """Bodies of the server's requests; a status of 500 or more counts as a crash."""
    (folder / "delta.safetensors").write_bytes(content)
    service = Service(backbone, Limits(bytes=200_000, examples=8), folder)
    service.put("a", "a.safetensors", from_bytes(content, "the file"))
    rows = np.random.default_rng(0).random((2, 1, 8, 8)).round(3).tolist()
    bodies = {
        "/predict": json.dumps({"task": "a", "inputs": rows}),
        "/predict/a": json.dumps({"inputs": rows}),
        "/tasks/b": json.dumps({"path": "delta.safetensors"}),
    }
    files = {path: File(body.encode(), m.TEXT) for path, body in bodies.items()}
    with TestClient(make_app(service), base_url="http://localhost") as client:
        read = partial(_request, client)
        yield Kind.in_memory("requests", folder, files, read)


class Rejected(autotune.errors.AutotuneError):
    """A request that was refused."""


def _request(client: TestClient, path: str, content: bytes) -> None:
    send = client.put if path == "/tasks/b" else client.post
    answer = send(path, content=content, headers={"Content-Type": "application/json"})
    if answer.status_code >= 500:
        raise RuntimeError(f"status {answer.status_code} of {path}: {answer.text[:60]}")
    if not answer.is_success:
        raise Rejected(answer.text)
    if path == "/tasks/b":
        client.delete(path)


def all_kinds(root: Path, backbone: Backbone) -> Iterator[Kind]:
    """Every kind, each in its own folder; the run is in `root / "run"`."""
    trained = Trained.on(backbone)
    at = {name: root / "files" / name.replace(" ", "-") for name in SHARES}
    for folder in (*at.values(), root / "files" / "interrupted"):
        folder.mkdir(parents=True)
    yield delta_files(at["delta files"], backbone, trained.delta)
    yield adapters(at["adapters"], backbone, trained.delta)
    yield configurations(at["configurations"])
    yield search_spaces(at["search spaces"])
    yield input_descriptions(at["input descriptions"])
    yield images(at["images"])
    yield arrays(at["arrays"])
    yield weights(at["weights"], backbone)
    yield run_folders(at["run folders"], root / "run", backbone)
    yield interrupted_runs(root / "files" / "interrupted", root / "interrupted")
    yield checkpoints(at["checkpoints"], trained)
    yield from requests(at["requests"], backbone, trained.delta)
