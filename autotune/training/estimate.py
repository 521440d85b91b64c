"""Estimate of a search's time and memory from a few timed steps before any training."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from statistics import median

import torch
from torch.nn import functional as F

from autotune.backbones.activation_checkpoints import plain_checkpoints
from autotune.backbones.forward import logits_of
from autotune.backbones.precision import widened
from autotune.deltas.attach import attached
from autotune.deltas.costs import everywhere
from autotune.problem.plan import Choice, Plan
from autotune.tasks.loading import batches
from autotune.training.engine import Engine
from autotune.utils.peak_memory import peak_memory

TIMED_STEPS = 3
"""Number of timed training steps, after one for warm-up.

Not tuned: the median of three ignores one outlier, and the estimate should take only seconds.
"""

STEP_PER_FORWARD = 3
"""Time of a training step in forward passes: one forward, and a backward that costs about two."""


@dataclass(frozen=True)
class Estimate:
    """Time and memory of training on this machine."""

    step: float
    """Time of one training step of full fine-tuning, in seconds."""

    full: float
    """Time of full fine-tuning without a cache and with the search's recipe, in seconds."""

    memory: int
    """Peak memory of this process so far, in bytes; on a GPU, that of the GPU."""


def estimate(engine: Engine) -> Estimate:
    """Time full fine-tuning, in which every unit's weights train."""
    plan, _ = everywhere(engine.backbone.network, engine.units, Choice.of("subtune", what="all"))
    step = _step_seconds(engine, plan)
    recipe, n = engine.recipe, len(engine.task.train)
    assert engine.task.val is not None
    forward = step / STEP_PER_FORWARD * math.ceil(len(engine.task.val) / recipe.batch_size)
    epoch = step * math.ceil(n / recipe.batch_size) + forward
    return Estimate(step, epoch * recipe.epochs, _memory(engine))


@plain_checkpoints()
def _step_seconds(engine: Engine, plan: Plan) -> float:
    """Median time of a training step with AdamW in seconds."""
    network, device = engine.backbone.network, torch.device(engine.recipe.device)
    inputs, _ = next(
        batches(engine.task.train, engine.recipe.batch_size, input=engine.input, device=device)
    )
    seconds = []
    with attached(network, engine.units, plan) as deltas:
        optimizer = torch.optim.AdamW(deltas.parameters(), 1e-6)
        for _ in range(TIMED_STEPS + 1):
            began = time.perf_counter()
            with engine.recipe.autocast():
                logits = widened(logits_of(network(inputs)))
                loss = F.cross_entropy(logits, logits.argmax(1).detach())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - began)
    return median(seconds[1:])


def _memory(engine: Engine) -> int:
    if engine.recipe.device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(engine.recipe.device)
    return peak_memory()
