"""Many tasks on one backbone: all of them on one batch, switching between them, and a server.

The tasks change the last fifth of the network, by low rank or whole blocks; deltas and weights are
random, as only time matters. Three implementations are measured in alternation: `MultiTask`; a
handwritten one (the prefix once, then ten suffixes, no framework); ten separate networks. Further
parts measure one layer of ten tasks separately and together, switching between two deltas of one
model, and requests per second of `autotune serve` from another process.
"""

from __future__ import annotations

import argparse
import copy
import http.client
import json
import subprocess
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from results import table, write_section
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet50

from autotune.backbones import load_backbone
from autotune.backbones.base import Backbone, describe
from autotune.backbones.heads.copies import new_head
from autotune.backbones.inputs import InputDescription
from autotune.backbones.units import Unit, Units, find_units
from autotune.deltas.artifact import Artifact, to_bytes
from autotune.deltas.attach import Deltas
from autotune.deltas.loading import load_adapted, merge, switch
from autotune.deploy.multitask.model import MultiTask
from autotune.problem.plan import Choice, Plan
from autotune.run.settings import load_space

TASKS, CLASSES, TURNS = 10, 10, 9
KINDS = {
    "low rank": Choice.of("lowrank", rank=4),
    "whole blocks": Choice.of("subtune", what="all"),
}
SUFFIX = ("layer4.0", "layer4.1", "layer4.2")
"""Last three of sixteen blocks; the deltas of task i start at block i modulo 3 of them."""


def artifact(backbone: Backbone, units: Units, plan: Plan, seed: int) -> Artifact:
    """Random artifact of a plan, as if it had been trained."""
    torch.manual_seed(seed)
    deltas = Deltas(backbone.network, units, plan, seed=seed)
    stored = {f"delta/{n}": t + 0.01 * torch.randn_like(t) for n, t in deltas.tensors().items()}
    deltas.detach()
    head = new_head(backbone.network.get_submodule(backbone.head), CLASSES)
    tensors = {**stored, **{f"head/{n}": t for n, t in head.state_dict().items()}}
    header = {
        "input": InputDescription(shape=(3, 224, 224)).to_json(),
        "task": {"source": "noise", "classes": list(range(CLASSES))},
        "about": {"head": backbone.head},
    }
    tuned = tuple(unit for unit in units if unit.name in plan.choices)
    return Artifact(
        plan, tuned, backbone.fingerprint, {n: t.detach() for n, t in tensors.items()}, header
    )


def by_hand(networks: list[nn.Module], first: list[int]) -> Callable[[Tensor], list[Tensor]]:
    """Handwritten forward pass of all tasks, which runs shared blocks once.

    `first` has the index of each task's first tuned block in the last stage.
    """
    base: Any = networks[0]
    stages = [base.layer1, base.layer2, base.layer3]

    def run(x: Tensor) -> list[Tensor]:
        with torch.inference_mode():
            x = base.maxpool(base.relu(base.bn1(base.conv1(x))))
            for stage in stages:
                x = stage(x)
            shared = [x]
            # Frozen blocks come from the network that has the most of them.
            for block in range(max(first)):
                frozen: Any = networks[first.index(max(first))]
                shared.append(frozen.layer4[block](shared[-1]))
            logits = []
            for network, begins in zip(networks, first, strict=True):
                tuned: Any = network
                y = shared[begins]
                for block in tuned.layer4[begins:]:
                    y = block(y)
                logits.append(tuned.fc(tuned.avgpool(y).flatten(1)))
            return logits

    return run


def rows(sizes: list[int]) -> list[list[str]]:
    torch.manual_seed(0)
    network = resnet50().eval()
    backbone = describe(network, source="resnet50", family="resnet")
    units = find_units(backbone, load_space("resnet").units.block)
    rows = []
    for kind, choice in KINDS.items():
        first = [at % len(SUFFIX) for at in range(TASKS)]
        artifacts = [
            artifact(backbone, units, Plan(dict.fromkeys(SUFFIX[begins:], choice)), seed)
            for seed, begins in enumerate(first)
        ]
        networks = [load_adapted(copy.deepcopy(network), a) for a in artifacts]
        multi = MultiTask(backbone, {str(at): a for at, a in enumerate(artifacts)})
        hand = by_hand([multi._joined.tasks[str(at)].network for at in range(TASKS)], first)
        implementations = [
            lambda x, m=multi: list(m(x).values()),
            hand,
            partial(separate, networks),
        ]
        for size in sizes:
            x = torch.randn(size, 3, 224, 224)
            together, least, many = map(median, turns(implementations, x))
            rows.append(
                [f"{kind}, batch {size}", *(f"{1000 * s:.0f}" for s in (together, least, many))]
            )
            rows[-1] += [f"{together / least:.2f}", f"{many / together:.2f}"]
            print(rows[-1], flush=True)
    return rows


def separate(networks: list[nn.Module], x: Tensor) -> list[Tensor]:
    with torch.inference_mode():
        return [network(x) for network in networks]


def turns(
    implementations: list[Callable[[Tensor], list[Tensor]]], x: Tensor, *, exact: bool = True
) -> list[list[float]]:
    """Seconds of each implementation in alternation; outputs are asserted to be equal."""
    times: list[list[float]] = [[] for _ in implementations]
    first = implementations[0](x)
    for turn in range(TURNS + 1):
        for implementation, seconds in zip(implementations, times, strict=True):
            began = time.perf_counter()
            output = implementation(x)
            if turn:
                seconds.append(time.perf_counter() - began)
            same = torch.equal if exact else partial(torch.allclose, rtol=1e-3, atol=1e-2)
            assert all(same(a, b) for a, b in zip(output, first, strict=True))
    return times


def write_tasks() -> None:
    head = ["ten tasks", "MultiTask, ms", "by hand, ms", "ten networks, ms"]
    head += ["÷ by hand", "ten networks ÷ MultiTask"]
    text = (
        f"ResNet-50 at 224 px, {TASKS} tasks tuned in the last three of sixteen blocks, all "
        f"computed for one batch; medians of {TURNS} turns.\n\n"
    )
    write_section("Many tasks on one shared prefix", text + table(head, rows([1, 8])))


# one layer of ten tasks

SHAPES = {
    "1×1, 2048 to 512, 7×7": (2048, 512, 1, 7),
    "3×3, 512, 7×7": (512, 512, 3, 7),
    "3×3, 64, 56×56": (64, 64, 3, 56),
    "3×3, 128, 2×2": (128, 128, 3, 2),
}


def layer(shape: tuple[int, int, int, int], n: int) -> list[float]:
    """Median seconds of ten kernels separately and grouped, and of one kernel on ten batches.

    The latter runs separately and on stacked examples.
    """
    inputs, outputs, size, side = shape
    kernels = [torch.randn(outputs, inputs, size, size) for _ in range(TASKS)]
    grouped, x = torch.cat(kernels), torch.randn(TASKS, n, inputs, side, side)

    def convolved(x: Tensor, kernel: Tensor, groups: int = 1) -> Tensor:
        return F.conv2d(x, kernel, padding=size // 2, groups=groups)

    def own(x: Tensor) -> list[Tensor]:
        return [convolved(one, kernel) for one, kernel in zip(x, kernels, strict=True)]

    def in_groups(x: Tensor) -> list[Tensor]:
        output = convolved(torch.cat(list(x), 1), grouped, TASKS)
        return list(output.split(outputs, 1))

    def apart(x: Tensor) -> list[Tensor]:
        return [convolved(one, kernels[0]) for one in x]

    def stacked(x: Tensor) -> list[Tensor]:
        return list(convolved(torch.cat(list(x)), kernels[0]).split(n))

    with torch.inference_mode():
        pairs = [turns([own, in_groups], x, exact=False), turns([apart, stacked], x, exact=False)]
    return [median(times) for pair in pairs for times in pair]


def write_layers() -> None:
    rows = []
    for name, shape in SHAPES.items():
        for n in (1, 8):
            times = layer(shape, n)
            rows.append([f"{name}, batch {n}", *(f"{1000 * s:.1f}" for s in times)])
    head = ["convolution of ten tasks", "ten kernels, ms", "grouped, ms"]
    text = "Medians of separate and joint computation, in alternation.\n\n"
    head += ["one kernel, ms", "on stacked examples, ms"]
    write_section("Layers of ten tasks together", text + table(head, rows))


# one model, switched


def write_switch() -> None:
    rows = []
    for name, network, space in (
        ("digits", load_backbone("builtin:digits").network, "digits"),
        ("ResNet-50", resnet50().eval(), "resnet"),
    ):
        backbone = describe(network, source=name, family=space)
        units = find_units(backbone, load_space(space).units.block)
        plan = Plan({unit.name: KINDS["low rank"] for unit in units if _takes_low_rank(unit)})
        made = [artifact(backbone, units, plan, seed) for seed in range(2)]
        for seed, delta in enumerate(made):
            load_adapted(backbone, delta, name=str(seed))
        times = []
        for turn in range(101):
            began = time.perf_counter()
            switch(network, str(turn % 2))
            times.append(time.perf_counter() - began)
        rows.append([name, str(len(plan)), f"{1000 * median(times):.2f}"])
    text = "Low rank in every block; median of 101 switches between two deltas.\n\n"
    write_section("Switching", text + table(["network", "units", "ms"], rows))


def _takes_low_rank(unit: Unit) -> bool:
    return any(name.endswith("weight") for name in unit.parameters)


# a merged network


def write_merged() -> None:
    torch.manual_seed(0)
    network = resnet50().eval()
    backbone = describe(network, source="resnet50", family="resnet")
    units = find_units(backbone, load_space("resnet").units.block)
    plan = Plan(dict.fromkeys(SUFFIX, KINDS["low rank"]))
    merged = load_adapted(copy.deepcopy(network), artifact(backbone, units, plan, 0))
    merge(merged)
    with torch.inference_mode():
        x, networks = torch.randn(4, 3, 224, 224), [network, merged]
        times = [[_seconds(lambda n=n: n(x)) for n in networks] for _ in range(2 * TURNS)]
    ratios = sorted(after / before for before, after in times)
    before, after = (1000 * median(column) for column in zip(*times, strict=True))
    text = (
        f"ResNet-50 with low rank merged in three blocks, batch 4 at 224 px, in alternation with "
        f"the backbone: {after:.0f} ms against {before:.0f} ms; the median of {len(ratios)} ratios "
        f"is {median(ratios):.3f} (from {ratios[0]:.3f} to {ratios[-1]:.3f})."
    )
    write_section("A merged network against its backbone", text)


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


# the server


def ask(port: int, seconds: float, connections: int) -> list[float]:
    """Seconds of each request from several connections, which each wait for their answers."""
    body = json.dumps({"inputs": torch.rand(1, 8, 8).tolist()}).encode()
    times: list[float] = []

    def run() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            began = time.perf_counter()
            connection.request("POST", "/predict/a", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200
            times.append(time.perf_counter() - began)

    threads = [threading.Thread(target=run) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times


def write_server() -> None:
    rows, port = [], 8765
    with TemporaryDirectory() as folder:
        backbone = load_backbone("builtin:digits")
        units = find_units(backbone, load_space("digits").units.block)
        plan = Plan({"layer3.1": KINDS["low rank"], "layer3.0": KINDS["low rank"]})
        for name in "ab":
            made = artifact(backbone, units, plan, ord(name))
            made.header["input"] = InputDescription(shape=(1, 8, 8)).to_json()  # type: ignore[index]
            (Path(folder) / f"{name}.safetensors").write_bytes(to_bytes(made))
        deltas = [f"--delta={name}={folder}/{name}.safetensors" for name in "ab"]
        command = ["autotune", "serve", *deltas, "--backbone=builtin:digits", f"--port={port}"]
        server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            _wait_for(port)
            for connections in (1, 16):
                times = sorted(ask(port, 10.0, connections))
                p50, p99 = (1000 * times[int(q * len(times))] for q in (0.5, 0.99))
                rows.append(
                    [str(connections), f"{len(times) / 10:.0f}", f"{p50:.1f}", f"{p99:.1f}"]
                )
        finally:
            server.terminate()
            server.wait()
    text = (
        "`autotune serve` of two tasks on the digits network, with requests from a second process "
        "whose connections wait for each answer before the next request, ten seconds each.\n\n"
    )
    head = ["connections", "requests per second", "median, ms", "99 %, ms"]
    write_section("Server", text + table(head, rows))


def _wait_for(port: int) -> None:
    while True:
        try:
            http.client.HTTPConnection("127.0.0.1", port).request("GET", "/health")
            return
        except ConnectionError:
            time.sleep(0.1)


PARTS = {
    "tasks": write_tasks,
    "layers": write_layers,
    "switch": write_switch,
    "merged": write_merged,
    "server": write_server,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS))
    for part in parser.parse_args().parts:
        PARTS[part]()


if __name__ == "__main__":
    main()
