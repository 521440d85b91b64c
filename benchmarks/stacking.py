"""Several trainings with the same structure, stacked by `torch.func` or one by one.

Median time of a training step on cached activations, in alternation, for four trainings of one unit
of a ResNet-20 and a head, and of the head alone. Needs no data.
"""

from __future__ import annotations

import copy
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from results import table, write_section
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

from cifar_resnet import resnet20

TOGETHER, BATCH, TURNS = 4, 32, 15
UNITS = {"layer1.2": ("layer1", 2, 16, 32), "layer3.2": ("layer3", 2, 64, 8)}
"""Unit → its stage and its index there, and the channels and side length of its input."""


class Behind(nn.Module):
    """Network from a unit on, with a new head."""

    def __init__(self, blocks: list[nn.Module], channels: int) -> None:
        super().__init__()
        self.blocks, self.head = nn.Sequential(*blocks), nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.blocks(x).mean((2, 3)))
        return output


def loss_of(model: nn.Module, tensors: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(functional_call(model, tensors, (x,)), y)


def seconds(call: Any) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def row(name: str, blocks: list[nn.Module], trained: str, channels: int, side: int) -> list[str]:
    models = [Behind(copy.deepcopy(blocks), 64).eval() for _ in range(TOGETHER)]
    parameters, buffers = stack_module_state(models)
    is_trained = lambda key: key.startswith((trained, "head"))  # noqa: E731
    stacked = {k: v.detach() for k, v in parameters.items() if is_trained(k)}
    frozen = {k: v[0].detach() for k, v in (parameters | buffers).items() if k not in stacked}
    x = torch.randn(TOGETHER, BATCH, channels, side, side)
    y = torch.randint(0, 10, (TOGETHER, BATCH))
    one = lambda tensors, x, y: loss_of(models[0], {**frozen, **tensors}, x, y)  # noqa: E731
    together = vmap(grad(one))

    for model in models:
        for key, parameter in model.named_parameters():
            parameter.requires_grad_(is_trained(key))

    def singly() -> None:
        for model, inputs, labels in zip(models, x, y, strict=True):
            model.zero_grad()
            F.cross_entropy(model(inputs), labels).backward()

    turns = [(seconds(singly), seconds(lambda: together(stacked, x, y))) for _ in range(TURNS)]
    apart, stack = (median(times[2:]) for times in zip(*turns, strict=True))
    return [name, f"{1000 * apart:.1f}", f"{1000 * stack:.1f}", f"{apart / stack:.2f}"]


def main() -> None:
    torch.manual_seed(0)
    network = resnet20().requires_grad_(False)
    stages = [network.layer1, network.layer2, network.layer3]
    rows = [row("head", [], "head", 64, 8)]
    for name, (stage, at, channels, side) in UNITS.items():
        first = int(stage[-1]) - 1
        blocks = [*stages[first][at:], *(block for s in stages[first + 1 :] for block in s)]
        rows.append(row(name, blocks, "blocks.0.", channels, side))
    for line in rows:
        print(line, flush=True)
    head = ["trains", f"{TOGETHER} one by one, ms", "stacked, ms", "speed-up"]
    write_section("Trainings stacked", table(head, rows))


if __name__ == "__main__":
    main()
