"""What a request holds: a picture, or JSON with numbers; within limits."""

from __future__ import annotations

import json
from io import BytesIO
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autotune.backbones.inputs import InputDescription
from autotune.errors import TaskError
from autotune.tasks.imagefolder import decode_picture
from autotune.tasks.npz import as_inputs


def read_inputs(body: bytes, kind: str, input: InputDescription, most: int) -> Tensor:
    """Examples (n, ...) as the network takes them, from a body of a content type.

    `image/*` is one picture of any size. JSON is `{"inputs": …, "dtype": …}`, an example or a list
    of them: `uint8` pictures are scaled and normalised, other dtypes are taken as they are. When
    nothing is said, whole numbers are `uint8` pictures where the network takes pictures, and
    others of the network's own dtype. Raises `TaskError` for anything else, and for more than
    `most` examples.
    """
    if kind.startswith("image/"):
        if not input.is_picture:
            raise TaskError("This network takes no pictures. Send JSON with its inputs.")
        return input.normalise(decode_picture(BytesIO(body), input)[None])
    return _numbers(body, input, most)


_NO_NUMBERS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    SyntaxError,
    TypeError,
    ValueError,
)


def _numbers(body: bytes, input: InputDescription, most: int) -> Tensor:
    try:
        given = json.loads(body)
        array = np.asarray(given["inputs"])
        dtype = np.dtype(given.get("dtype", _own_dtype(array, input)))
    except _NO_NUMBERS as error:
        raise TaskError(
            'A request is a picture (Content-Type: image/…) or JSON as {"inputs": [...]}, this is '
            f"not ({type(error).__name__}: {error})."
        ) from error
    if array.dtype.kind not in "iuf" or not array.size:
        raise TaskError("Inputs must be numbers in lists of equal lengths, at least one.")
    _check_range(array, dtype)
    return _batch(array.astype(dtype), input, most)


def _own_dtype(array: np.ndarray[Any, Any], input: InputDescription) -> str:
    """What numbers without a dtype are: whole ones are a picture's, where pictures are taken."""
    return "uint8" if input.is_picture and array.dtype.kind in "iu" else input.dtype


def _check_range(array: np.ndarray[Any, Any], dtype: np.dtype[Any]) -> None:
    if dtype.kind in "iu" and (array.dtype.kind == "f" or not _fits(array, dtype)):
        raise TaskError(f"Inputs of {dtype} must be whole numbers that it can hold.")
    if dtype.kind not in "iuf":
        raise TaskError(f"Inputs must be numbers, got the dtype {dtype}.")


def _fits(array: np.ndarray[Any, Any], dtype: np.dtype[Any]) -> bool:
    known = np.iinfo(dtype)
    return array.size == 0 or bool(array.min() >= known.min and array.max() <= known.max)


def _batch(array: np.ndarray[Any, Any], input: InputDescription, most: int) -> Tensor:
    shape = input.example_shape
    if array.dtype == np.uint8 and input.is_picture:
        array = array[None] if array.ndim < len(shape) else array
        inputs = as_inputs(array[None] if array.shape == shape else array, input, "the request")
    else:
        inputs = as_inputs(array[None] if array.shape == shape else array, None, "the request")
    if tuple(inputs.shape[1:]) != shape or not len(inputs):
        raise TaskError(f"Examples must be {shape}, the request has {tuple(inputs.shape[1:])}.")
    if len(inputs) > most:
        raise TaskError(f"At most {most} examples a request, got {len(inputs)}.")
    if inputs.dtype == torch.uint8 and input.is_picture:
        return input.normalise(inputs)
    return inputs.to(getattr(torch, input.dtype))
