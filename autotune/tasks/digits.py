"""`builtin:digits…`: the digits that the backbone was not trained on, plain or shifted."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from autotune.backbones.inputs import InputDescription
from autotune.backbones.sources.digits_data import Images, halves
from autotune.errors import UnknownName, unknown
from autotune.tasks.base import Task
from autotune.tasks.options import DEFAULTS, DataOptions
from autotune.tasks.part import Part


def _noise(x: Images) -> Images:
    noise = np.random.default_rng(0).normal(0, 0.5, x.shape)
    return (x + noise).astype(np.float32)


def _contrast(x: Images) -> Images:
    """Reduce the contrast, on a background that brightens from left to right."""
    ramp = np.linspace(0, 1, x.shape[-1], dtype=np.float32)
    return (0.3 * x + 0.7 * ramp).astype(np.float32)


def _rotated(x: Images) -> Images:
    return np.ascontiguousarray(np.rot90(x, axes=(2, 3)))


def _inverted(x: Images) -> Images:
    return (1 - x).astype(np.float32)


def _plain(x: Images) -> Images:
    return x


SHIFTS: dict[str, Callable[[Images], Images]] = {
    "digits": _inverted,
    "digits-inverted": _inverted,
    "digits-noise": _noise,
    "digits-contrast": _contrast,
    "digits-rotated": _rotated,
    "digits-plain": _plain,
}


def load(name: str, input: InputDescription | None, options: DataOptions = DEFAULTS) -> Task:
    """Load float32 images (n, 1, 8, 8) of ten classes, in about 0..1, not split into parts."""
    if name not in SHIFTS:
        raise UnknownName(unknown("builtin task", name, SHIFTS))
    _, (x, y) = halves()
    part = Part(torch.from_numpy(SHIFTS[name](x)), y)
    return Task(f"builtin:{name}", part, None, None, tuple(map(str, range(10))))
