"""What a job is fed depends on no job that ran before it: all methods, at all units, any order."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from autotune.problem.job import Job, Progress
from autotune.problem.plan import Plan
from autotune.run.settings import read_settings
from autotune.session.setup import Setup, prepare_search, released
from autotune.training.prefix.prefix import Keeping

METHODS = [
    *("subtune", "lowrank", "scale", "reparam", "xs", "sparse", "res_adapter"),
    *("res_prefix", "res_prompt", "skip", "side", "bypass"),
]
RATES = {**{f"lr:{name}": 0.01 for name in ("head", *METHODS)}, "weight_decay": 0.0}


def convolutional() -> nn.Module:
    blocks = [nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()) for _ in range(2)]
    ends = nn.Conv2d(1, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    return nn.Sequential(ends[0], *blocks, *ends[1:])


def perceptron() -> nn.Module:
    layers = (nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU())
    return nn.Sequential(*layers, nn.Linear(16, 3))


def transformer() -> nn.Module:
    sizes = {"num_layers": 2, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 16, "num_classes": 3}

    class Grey(VisionTransformer):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.expand(-1, 3, -1, -1))  # type: ignore[no-any-return]

    return Grey(image_size=8, patch_size=4, **sizes)


@contextmanager
def prepared(make: Callable[[], nn.Module], memory: int) -> Iterator[Setup]:
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(40, 1, 8, 8)).astype(np.float32), np.arange(40) % 3
    torch.manual_seed(0)
    network = make().eval()
    settings = read_settings(
        {"epochs": 1, "batch_size": 16, "space": "any", "budget": "100%", "device": "cpu"}
    )
    with released(prepare_search(settings, network, (x, y))) as setup:
        setup.engine.keeping = Keeping(memory=memory)
        setup.engine.to("cpu")
        yield setup


def one_of_each_method(setup: Setup) -> list[Plan]:
    """For each unit and method, the smallest choice; the empty plan first."""
    plans: dict[Any, Plan] = {"": Plan()}
    for unit, choices in setup.problem.choices.items():
        for choice in choices:
            plans.setdefault((unit, choice.names), Plan({unit: choice}))
    return list(plans.values())


def outcome(progresses: list[Progress]) -> list[tuple[float, float]]:
    return [(p.value, p.metrics["loss"]) for p in progresses]


@pytest.mark.slow
@pytest.mark.parametrize("make", [convolutional, perceptron, transformer])
def test_jobs_in_any_order_are_fed_what_each_alone_is_fed(make):
    with prepared(make, memory=0) as plain:
        plans = one_of_each_method(plain)
        alone = {
            plan: outcome(list(plain.engine(Job("job", plan, RATES, seed=1)))) for plan in plans
        }
    seed = random.SystemRandom().randrange(10**6)
    random.Random(seed).shuffle(plans)
    with prepared(make, memory=10**8) as kept:
        for plan in plans:
            fed = outcome(list(kept.engine(Job("job", plan, RATES, seed=1))))
            # Kernels may round a row differently at another place in a batch, no more than that.
            assert np.allclose(fed, alone[plan], rtol=1e-4), (seed, str(plan))
    methods = {method for plan in plans for method in plan.methods()}
    assert {"side", "bypass", "lowrank", "subtune"} <= methods
