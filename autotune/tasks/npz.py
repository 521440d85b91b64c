"""`npz:FILE`: numpy arrays `x_train, y_train`, optionally `x_val, y_val, x_test, y_test`."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from autotune.backbones.inputs import InputDescription
from autotune.errors import TaskError
from autotune.tasks.base import Task, encode
from autotune.tasks.part import Part

ARRAYS = "It needs x_train and y_train, and may have x_val, y_val, x_test, y_test."


def load(name: str, input: InputDescription | None) -> Task:
    """Load uint8 images (n, h, w), (n, h, w, c) or (n, c, h, w), or arrays for the network.

    Labels are integers or strings, (n,). Object arrays are refused: nothing is unpickled.
    """
    arrays = _read(Path(name))
    classes = sorted(set(arrays["y_train"].tolist()))
    parts = {part: _part(arrays, part, classes, name, input) for part in ("train", "val", "test")}
    train = parts["train"]
    assert train is not None
    return Task(f"npz:{name}", train, parts["val"], parts["test"], tuple(map(str, classes)))


def _read(path: Path) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        raise TaskError(f"An npz: task must exist, {str(path)!r} does not.")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            known = [f"{xy}_{part}" for part in ("train", "val", "test") for xy in "xy"]
            arrays = {key: stored[key] for key in known if key in stored}
    except _DAMAGE as error:
        raise TaskError(
            f"An npz: task must hold plain arrays, {str(path)!r} does not ({error}). "
            "Save it with numpy.savez, without object arrays."
        ) from error
    _refuse_wrong(arrays, str(path))
    return arrays


_DAMAGE = (
    *(ValueError, OSError, EOFError, AttributeError, TypeError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error),
)


def _refuse_wrong(arrays: dict[str, NDArray[Any]], file: str) -> None:
    for part in ("train", "val", "test"):
        x, y = arrays.get(f"x_{part}"), arrays.get(f"y_{part}")
        if x is None and y is None and part != "train":
            continue
        if x is None or y is None:
            missing = f"{'x' if x is None else 'y'}_{part}"
            raise TaskError(f"The array {missing} is missing from {file!r}. {ARRAYS}")
        if x.dtype == object or y.dtype == object:
            raise TaskError(f"x_{part} and y_{part} of {file!r} must be plain arrays. {ARRAYS}")
        if x.ndim < 1 or y.ndim != 1 or len(x) != len(y) or not len(y):
            raise TaskError(
                f"x_{part} and y_{part} must have equal length, at least one, with labels (n,); "
                f"{file!r} has {x.shape} and {y.shape}. {ARRAYS}"
            )
        if y.dtype.kind not in "iuUb":
            raise TaskError(
                f"Labels must be integers or strings, y_{part} of {file!r} is {y.dtype}."
            )


def _part(
    arrays: dict[str, NDArray[Any]],
    part: str,
    classes: list[Any],
    file: str,
    input: InputDescription | None,
) -> Part | None:
    if f"x_{part}" not in arrays:
        return None
    inputs = as_inputs(arrays[f"x_{part}"], input, f"x_{part} of {file!r}")
    return Part(inputs, encode(arrays[f"y_{part}"].tolist(), known=classes, source=file))


def as_inputs(x: NDArray[Any], input: InputDescription | None, where: str) -> torch.Tensor:
    """Convert an array to a network's input.

    uint8 images become (n, channels, height, width), other integers int64, and floats float32.
    Raises `TaskError`, naming `where`, for NaN, infinity or another dtype.
    """
    if x.dtype == np.uint8:
        return torch.from_numpy(_channels_first(x, where))
    if x.dtype.kind == "f":
        if not np.isfinite(x).all():
            raise TaskError(f"Inputs must be finite, {where} holds NaN or infinity.")
        return torch.from_numpy(np.ascontiguousarray(x, np.float32))
    if x.dtype.kind in "iu":
        return torch.from_numpy(np.ascontiguousarray(x, np.int64))
    raise TaskError(f"Inputs must be uint8 images, floats or integers, {where} is {x.dtype}.")


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
