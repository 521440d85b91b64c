"""Training time against a plain PyTorch loop, and against a minimal loop without any framework.

Seconds of one training, by the unit that trains, of three implementations in alternation: (a) a
plain PyTorch loop that freezes, trains and evaluates the whole network; (b) autotune with cached
outputs of the layers before the unit (and, for the first training, computing them); (c) a minimal
handwritten loop over activations that were computed before. All have the same examples, epochs,
batches and threads.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import geometric_mean, median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from policy import digits, flowers, resnet20
from results import table, write_section
from torch import Tensor, nn
from torch.nn import functional as F

from autotune.backbones.heads.copies import new_head
from autotune.problem.job import Job
from autotune.problem.plan import Choice, Plan
from autotune.run.settings import Settings, read_settings
from autotune.session.setup import prepare_search
from autotune.training.engine import Engine
from autotune.training.prefix.prefix import Keeping

RATES = {"lr:head": 3e-3, "lr:subtune": 1e-3, "weight_decay": 1e-4}
REPEATS = 3
SHORT = 10
"""Number of measurements in each repeat for trainings of a tenth of a second or less."""

Piece = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Net:
    """Network of this comparison, as a sequence of parts."""

    task: Callable[[Path], dict[str, Any]]
    pieces: Callable[[Any], dict[str, Piece]]
    """Unit → its part of the network; the last one is the head."""

    epochs: int = 5
    every: int = 1
    """Distance between the parts that are trained; the head always is."""

    batch_size: int = 32

    def settings(self, folder: Path) -> Settings:
        settings = {**self.task(folder), "epochs": self.epochs, "batch_size": self.batch_size}
        return read_settings(settings)

    def chosen(self, network: Any) -> list[str]:
        *units, head = self.pieces(network)
        return [*units[:: self.every], head]


def residual(net: Any) -> dict[str, Piece]:
    """Stem, blocks in three stages, and the head on the mean over positions."""
    head = net.fc if hasattr(net, "fc") else net.linear
    stages = {"layer1": net.layer1, "layer2": net.layer2, "layer3": net.layer3}
    blocks = {f"{name}.{i}": b for name, stage in stages.items() for i, b in enumerate(stage)}
    return {
        "stem": lambda x: F.relu(net.bn1(net.conv1(x))),
        **blocks,
        "head": lambda x: head(x.mean((2, 3))),
    }


def mobilenet(net: Any) -> dict[str, Piece]:
    parts = {f"features.{i}": part for i, part in enumerate(net.features)}
    return {**parts, "head": lambda x: net.classifier[1](x.mean((2, 3)))}


def vit(net: Any) -> dict[str, Piece]:
    def first(x: Tensor) -> Tensor:
        x = net._process_input(x)
        tokens = torch.cat([net.class_token.expand(len(x), -1, -1), x], dim=1)
        return tokens + net.encoder.pos_embedding  # type: ignore[no-any-return]

    layers = {f"encoder.layers.encoder_layer_{i}": b for i, b in enumerate(net.encoder.layers)}
    return {"conv_proj": first, **layers, "head": lambda x: net.heads(net.encoder.ln(x)[:, 0])}


def random_vit(folder: Path) -> dict[str, Any]:
    """ViT-B/16 with random weights, and images of noise: only its speed is meaningful."""
    (folder / "net.py").write_text(
        "from torchvision.models import vit_b_16\n\n\ndef make():\n    return vit_b_16()\n"
    )
    (folder / "input.yaml").write_text("size: 224\n")
    generator = np.random.default_rng(0)
    arrays = {}
    for part, n in {"train": 32, "val": 16, "test": 8}.items():
        arrays[f"x_{part}"] = generator.integers(0, 255, (n, 224, 224, 3), dtype=np.uint8)
        arrays[f"y_{part}"] = np.arange(n) % 2
    np.savez(folder / "noise.npz", **arrays)
    return {
        "backbone": f"python:{folder / 'net.py'}:make",
        "input": str(folder / "input.yaml"),
        "task": f"npz:{folder / 'noise.npz'}",
        "space": "vit",
    }


NETS = {
    "digits": Net(lambda folder: digits("inverted", folder), residual),
    "ResNet-20, 32 px": Net(lambda folder: resnet20("gaussian_noise", folder), residual),
    "MobileNetV2, 96 px": Net(lambda folder: flowers(96, folder), mobilenet, epochs=3, every=3),
    "ViT-B/16, 224 px": Net(random_vit, vit, epochs=1, every=4, batch_size=8),
}


@dataclass
class Rig:
    """Network with its examples, which all three implementations share."""

    engine: Engine
    pieces: Callable[[Any], dict[str, Piece]]

    def tensors(self) -> list[Tensor]:
        task = self.engine.task
        assert task.val is not None
        parts = (task.train, task.val)
        return [t for p in parts for t in (p.inputs, torch.from_numpy(p.labels))]  # type: ignore[misc]

    def fresh(self) -> tuple[Any, Any]:
        """Copy of the network with a new head, and that head; all frozen except the head."""
        backbone = self.engine.backbone
        network = copy.deepcopy(backbone.network).eval().requires_grad_(False)
        parent, _, name = backbone.head.rpartition(".")
        torch.manual_seed(1)
        head = new_head(network.get_submodule(backbone.head), len(self.engine.task.classes))
        setattr(network.get_submodule(parent), name, head)
        return network, head

    def trained(self, network: Any, unit: str) -> list[nn.Parameter]:
        """Parameters of a unit, which from now on require gradients."""
        units = [u for u in self.engine.units if u.name == unit]
        names = {name for u in units for name in u.parameters}
        chosen = [p for name, p in network.named_parameters() if name in names]
        for parameter in chosen:
            parameter.requires_grad_(True)
        return chosen


def fit(
    forward: Piece, groups: list[dict[str, Any]], tensors: Sequence[Tensor], epochs: int, size: int
) -> float:
    """Train with AdamW and a cosine schedule, evaluate every epoch, return the last accuracy."""
    inputs, labels, val_inputs, val_labels = tensors
    optimizer = torch.optim.AdamW(groups, weight_decay=RATES["weight_decay"])
    steps = epochs * math.ceil(len(inputs) / size)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    accuracy = 0.0
    for _ in range(epochs):
        for rows in torch.randperm(len(inputs)).split(size):
            loss = F.cross_entropy(forward(inputs[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            cosine.step()
        with torch.no_grad():
            right = [
                (forward(x).argmax(1) == y).sum()
                for x, y in zip(val_inputs.split(2 * size), val_labels.split(2 * size), strict=True)
            ]
        accuracy = float(sum(right)) / len(val_labels)
    return accuracy


def plain(rig: Rig, unit: str) -> float:
    """Seconds of implementation (a), the plain loop."""
    began = time.perf_counter()
    network, head = rig.fresh()
    groups = [{"params": list(head.parameters()), "lr": RATES["lr:head"]}]
    if chosen := rig.trained(network, unit):
        groups.append({"params": chosen, "lr": RATES["lr:subtune"]})
    recipe = rig.engine.recipe
    fit(network, groups, rig.tensors(), recipe.epochs, recipe.batch_size)
    return time.perf_counter() - began


def barest(rig: Rig, unit: str) -> float:
    """Seconds of implementation (c), the minimal loop, without computing the activations."""
    network, head = rig.fresh()
    pieces = rig.pieces(network)
    at = list(pieces).index(unit)
    before, behind = list(pieces.values())[:at], list(pieces.values())[at:]

    def through(parts: list[Piece], x: Tensor) -> Tensor:
        for part in parts:
            x = part(x)
        return x

    inputs, labels, val_inputs, val_labels = rig.tensors()
    with torch.no_grad():
        made = [torch.cat([through(before, x) for x in t.split(16)]) for t in (inputs, val_inputs)]
    groups = [{"params": list(head.parameters()), "lr": RATES["lr:head"]}]
    if chosen := rig.trained(network, unit):
        groups.append({"params": chosen, "lr": RATES["lr:subtune"]})
    recipe = rig.engine.recipe
    began = time.perf_counter()
    tensors = (made[0], labels, made[1], val_labels)
    fit(lambda x: through(behind, x), groups, tensors, recipe.epochs, recipe.batch_size)
    return time.perf_counter() - began


def ours(rig: Rig, unit: str) -> float:
    """Seconds of implementation (b), a job of the engine."""
    units = {u.name for u in rig.engine.units}
    plan = Plan({unit: Choice.of("subtune", what="all")} if unit in units else {})
    began = time.perf_counter()
    for _ in rig.engine(Job("trial", plan, RATES, seed=1)):
        pass
    return time.perf_counter() - began


def turns(rig: Rig, unit: str, making: float) -> tuple[list[float], list[float], list[float]]:
    """Seconds of the implementations (a), (b) and (c); short ones, which are noisy, run more."""
    users, autotune_times, least = list[float](), list[float](), list[float]()
    for _ in range(REPEATS):
        users.append(plain(rig, unit))
        for _ in range(max(2, min(SHORT, round(SHORT / 10 / making)))):
            autotune_times.append(ours(rig, unit))
            # Right after the engine, so that both are measured under the same load.
            least.append(barest(rig, unit))
    return users, autotune_times, least


def trials(name: str, net: Net) -> tuple[list[list[str]], list[tuple[float, ...]]]:
    """Rows of medians and ratios, one per unit."""
    with TemporaryDirectory() as folder:
        settings = net.settings(Path(folder))
        setup = prepare_search(settings, settings.backbone, settings.task)
    rig, rows, ratios = Rig(setup.engine, net.pieces), [], []
    plain(rig, "head")  # warm-up
    for unit in net.chosen(setup.backbone.network):
        making = ours(rig, unit)
        times = turns(rig, unit, making)
        user, autotune_time, least = map(median, times)
        share = median(b / a for a, b in zip(*times[1:], strict=True))
        ratios.append((user / autotune_time, share, user / making))
        rows.append([unit, *(f"{1000 * s:.0f}" for s in (user, making, autotune_time, least))])
        rows[-1] += [f"{user / autotune_time:.2f}", f"{share:.2f}"]
        print(name, rows[-1], flush=True)
    setup.engine.close()
    return rows, ratios


def peak(name: str, unit: str, implementation: str) -> None:
    """Run one training; print the largest memory of the process and of the cache, in MiB."""
    net = NETS[name]
    with TemporaryDirectory() as folder:
        settings = replace(net, epochs=1).settings(Path(folder))
        setup = prepare_search(settings, settings.backbone, settings.task)
    rig = Rig(setup.engine, net.pieces)
    if implementation == "uncached":
        rig.engine.keeping = Keeping()
        rig.engine.to("cpu")
    (plain if implementation == "plain" else ours)(rig, unit)
    places = [place for keeper in rig.engine.prefix._keepers for place in keeper.places]
    kept = sum(place.nbytes for place in places)
    # The `ru_maxrss` of a child process includes its parent's memory.
    status = Path("/proc/self/status").read_text()
    largest = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    print(json.dumps([largest, kept / 2**20]))


def peaks(names: list[str]) -> list[list[str]]:
    """Memory for a unit in the middle, each implementation in a separate process."""
    rows = []
    for name in names:
        with TemporaryDirectory() as folder:
            settings = NETS[name].settings(Path(folder))
            setup = prepare_search(settings, settings.backbone, settings.task)
        units = list(NETS[name].pieces(setup.backbone.network))
        unit = units[len(units) // 2]
        measured = {}
        for kind in ("plain", "uncached", "kept"):
            command = [sys.executable, __file__, "--peak", name, unit, kind]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            measured[kind] = json.loads(done.stdout.splitlines()[-1])
        sizes = [f"{measured[kind][0]:.0f}" for kind in ("plain", "uncached", "kept")]
        rows.append([name, unit, *sizes, f"{measured['kept'][1]:.0f}"])
        print(rows[-1], flush=True)
    return rows


def written(rows: list[list[str]], ratios: list[tuple[float, ...]]) -> str:
    head = ["unit", "plain, ms", "first, ms", "cached, ms", "minimal, ms"]
    head += ["plain ÷ cached", "of minimal"]
    faster, share, first = zip(*ratios, strict=True)
    last = faster[-max(1, len(faster) // 5) :]
    return (
        f"{table(head, rows)}\n\n"
        f"Speed-up over the plain loop: {geometric_mean(faster):.2f} × in the geometric mean, "
        f"{geometric_mean(last):.2f} × in the last fifth, {min(faster):.2f} × at worst; for the "
        f"first trial at a cut {geometric_mean(first):.2f} ×. Fraction of the minimal loop's "
        f"speed: {min(share):.2f} at worst, {geometric_mean(share):.2f} in the geometric mean."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nets", nargs="*", choices=NETS, default=list(NETS))
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        peak(*arguments.peak)
        return
    if "AUTOTUNE_DATA" not in os.environ:
        arguments.nets = ["digits"]
        print("AUTOTUNE_DATA names no folder: only the digits are compared.", file=sys.stderr)
    for part in arguments.parts:
        PARTS[part](arguments.nets)


def write_trials(names: list[str]) -> None:
    for name in names:
        write_section(f"Trials against a plain loop: {name}", written(*trials(name, NETS[name])))


def write_memory(names: list[str]) -> None:
    head = ["network", "unit", "plain, MiB", "uncached, MiB", "cached, MiB", "of it cache, MiB"]
    text = f"Peak memory of a process with one training:\n\n{table(head, peaks(names))}"
    write_section("Memory against a plain loop", text)


PARTS = {"trials": write_trials, "memory": write_memory}


if __name__ == "__main__":
    main()
