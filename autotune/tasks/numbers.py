"""Arrays as inputs of a network: their dtypes, and numbers that do not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autotune.backbones.inputs import InputDescription
from autotune.errors import TaskError


def as_inputs(x: NDArray[Any], input: InputDescription | None, where: str) -> Tensor:
    """Convert an array to a network's input.

    uint8 images become (n, channels, height, width), other integers int64, and floats float32.
    Raises `TaskError`, naming `where`, for NaN, infinity, numbers beyond these or another dtype.
    """
    if x.dtype == np.uint8:
        return torch.from_numpy(_channels_first(x, where))
    if x.dtype.kind == "f":
        return torch.from_numpy(_floats(x, where))
    if x.dtype.kind in "iu":
        return torch.from_numpy(_integers(x, where))
    raise TaskError(f"Inputs must be uint8 images, floats or integers, {where} is {x.dtype}.")


def _floats(x: NDArray[Any], where: str) -> NDArray[np.float32]:
    if not np.isfinite(x).all():
        raise TaskError(f"Inputs must be finite, {where} holds NaN or infinity.")
    _refuse_beyond(x, float(np.finfo(np.float32).max), "float32", where)
    return np.ascontiguousarray(x, np.float32)


def _integers(x: NDArray[Any], where: str) -> NDArray[np.int64]:
    if x.dtype == np.uint64:
        _refuse_beyond(x, np.iinfo(np.int64).max, "int64", where)
    return np.ascontiguousarray(x, np.int64)


def _refuse_beyond(x: NDArray[Any], most: float, dtype: str, where: str) -> None:
    if x.size and (beyond := max(x.max().item(), -x.min().item())) > most:
        raise TaskError(
            f"Inputs are read as {dtype}, which ends at {most:.3g}; {where} reaches {beyond:.3g}. "
            "Scale them."
        )


def refuse_overflow(inputs: Tensor, dtype: str, where: str) -> None:
    """Raise `TaskError` for numbers that become infinite, or others, in a network's own dtype."""
    taken = getattr(torch, dtype)
    if inputs.dtype == torch.uint8 or not inputs.numel() or taken == inputs.dtype:
        return
    if inputs.is_floating_point() == taken.is_floating_point and not taken.is_complex:
        limits = torch.finfo(taken) if taken.is_floating_point else torch.iinfo(taken)
        low, high = inputs.min().item(), inputs.max().item()
        if low < limits.min or high > limits.max:
            raise TaskError(
                f"The network takes {dtype}, from {limits.min:.3g} to {limits.max:.3g}; {where} "
                f"has {low:.3g} to {high:.3g}. Scale the inputs."
            )


def _channels_first(x: NDArray[Any], where: str) -> NDArray[np.uint8]:
    if x.ndim == 3:
        return np.ascontiguousarray(x[:, None])
    if x.ndim == 4 and x.shape[-1] in (1, 3):
        return np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    if x.ndim == 4 and x.shape[1] in (1, 3):
        return np.ascontiguousarray(x)
    raise TaskError(
        f"uint8 images are (n, h, w), (n, h, w, 1 or 3) or (n, 1 or 3, h, w), {where} is {x.shape}."
    )
