"""Ten tasks on one ResNet-50: all of them for one batch, against the arithmetic that they need.

Tasks tuned in the last fifth of the network (random deltas and weights: only time matters), in
three ways that take turns: `MultiTask`; the arithmetic by hand (the prefix once, ten suffixes, no
framework); ten separate networks. Low rank in blocks of the last stage, and whole blocks.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch
from results import table, write_section
from torch import Tensor, nn
from torchvision.models import resnet50

from autotune.adapt import Deltas
from autotune.artifact import Artifact
from autotune.backbones.base import Backbone, describe, new_head
from autotune.backbones.inputs import InputDescription
from autotune.backbones.units import Units, find_units
from autotune.config import load_space
from autotune.mount import load_adapted
from autotune.multitask.multitask import MultiTask
from autotune.plan import Choice, Plan

TASKS, CLASSES, TURNS = 10, 10, 9
KINDS = {
    "low rank": Choice.of("lowrank", rank=4),
    "whole blocks": Choice.of("subtune", what="all"),
}
SUFFIX = ("layer4.0", "layer4.1", "layer4.2")
"""The last three of sixteen blocks; the task at place i begins with the block at i modulo 3."""


def artifact(backbone: Backbone, units: Units, plan: Plan, seed: int) -> Artifact:
    """As after training."""
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
    """The prefix as far as all have it, the rest of the last stage as far as each has it."""
    base: Any = networks[0]
    stages = [base.layer1, base.layer2, base.layer3]

    def run(x: Tensor) -> list[Tensor]:
        with torch.inference_mode():
            x = base.maxpool(base.relu(base.bn1(base.conv1(x))))
            for stage in stages:
                x = stage(x)
            shared = [x]
            for block in range(max(first)):  # of a network whose first blocks are frozen
                frozen: Any = networks[first.index(max(first))]
                shared.append(frozen.layer4[block](shared[-1]))
            found = []
            for network, begins in zip(networks, first, strict=True):
                tuned: Any = network
                y = shared[begins]
                for block in tuned.layer4[begins:]:
                    y = block(y)
                found.append(tuned.fc(tuned.avgpool(y).flatten(1)))
            return found

    return run


def rows(sizes: list[int]) -> list[list[str]]:
    torch.manual_seed(0)
    network = resnet50().eval()
    backbone = describe(network, source="resnet50", family="resnet")
    units = find_units(backbone, load_space("resnet").units.block)
    found = []
    for kind, choice in KINDS.items():
        first = [at % len(SUFFIX) for at in range(TASKS)]
        artifacts = [
            artifact(backbone, units, Plan(dict.fromkeys(SUFFIX[begins:], choice)), seed)
            for seed, begins in enumerate(first)
        ]
        networks = [load_adapted(copy.deepcopy(network), a) for a in artifacts]
        multi = MultiTask(backbone, {str(at): a for at, a in enumerate(artifacts)})
        hand = by_hand([multi._joined.tasks[str(at)].network for at in range(TASKS)], first)
        ways = [lambda x, m=multi: list(m(x).values()), hand, partial(separate, networks)]
        for size in sizes:
            x = torch.randn(size, 3, 224, 224)
            mine, least, many = map(median, turns(ways, x))
            found.append(
                [f"{kind}, batch {size}", *(f"{1000 * s:.0f}" for s in (mine, least, many))]
            )
            found[-1] += [f"{mine / least:.2f}", f"{many / mine:.2f}"]
            print(found[-1], flush=True)
    return found


def separate(networks: list[nn.Module], x: Tensor) -> list[Tensor]:
    with torch.inference_mode():
        return [network(x) for network in networks]


def turns(ways: list[Callable[[Tensor], list[Tensor]]], x: Tensor) -> list[list[float]]:
    """Seconds of each way, which take turns and give the same."""
    times: list[list[float]] = [[] for _ in ways]
    first = ways[0](x)
    for turn in range(TURNS + 1):
        for way, seconds in zip(ways, times, strict=True):
            began = time.perf_counter()
            found = way(x)
            if turn:
                seconds.append(time.perf_counter() - began)
            assert all(torch.equal(a, b) for a, b in zip(found, first, strict=True))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="*", type=int, default=[1, 8])
    head = ["ten tasks", "MultiTask, ms", "by hand, ms", "ten networks, ms"]
    head += ["of the arithmetic", "faster than ten networks"]
    text = (
        f"ResNet-50 at 224 px, {TASKS} tasks tuned in the last three of sixteen blocks, all "
        f"answered for one batch; medians of {TURNS} turns.\n\n"
    )
    write_section("Many tasks on one trunk", text + table(head, rows(parser.parse_args().sizes)))


if __name__ == "__main__":
    main()
