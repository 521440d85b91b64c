"""Decoding of request bodies: an image, or JSON with numbers."""

from __future__ import annotations

import json
import math
from io import BytesIO
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autotune.backbones.inputs import InputDescription
from autotune.deploy.serve.nested import check_dtype, check_nested
from autotune.errors import TaskError, brief
from autotune.tasks.image import decode_image
from autotune.tasks.numbers import as_inputs, refuse_overflow


def read_inputs(body: bytes, kind: str, input: InputDescription, most: int) -> Tensor:
    """Decode the body of a request with content type `kind` to a batch of inputs (n, ...).

    `image/*` is one image of any size. JSON is `{"inputs": …, "dtype": …}` with one example or a
    list of examples: `uint8` images are scaled and normalised, other dtypes are used unchanged.
    Without `dtype`, integers are `uint8` images if the network takes images, and everything else
    has the dtype of the network's input. Raises `TaskError` for any other body and for more than
    `most` examples.
    """
    if kind.startswith("image/"):
        if not input.is_image:
            raise TaskError("This network takes no images. Send JSON with its inputs.")
        return input.normalise(decode_image(BytesIO(body), input)[None])
    return _numbers(body, input, most)


_INVALID_JSON = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    SyntaxError,
    TypeError,
    ValueError,
)
"""Errors of `json.loads` and numpy for bodies that are not numbers in lists."""


BYTES_PER_NUMBER, BYTES_OF_REST = 100, 10_000
"""Most bytes of JSON per number, which has 25 digits at most and may be indented, and of the rest.

Parsed lists take thirty times the memory of their text.
"""


def _numbers(body: bytes, input: InputDescription, most: int) -> Tensor:
    _check_length(body, input, most)
    try:
        content = json.loads(body)
        values, named = content["inputs"], content.get("dtype")
        check_nested(values, input.example_shape, most)
        array = np.asarray(values)
        dtype = np.dtype(_default_dtype(array, input) if named is None else check_dtype(named))
    except TaskError:
        raise
    except _INVALID_JSON as error:
        raise TaskError(
            'A request must be an image (Content-Type: image/…) or JSON like {"inputs": [...]}, '
            f"this one is neither ({type(error).__name__}: {brief(str(error))})."
        ) from error
    if array.dtype.kind not in "iuf" or not array.size:
        raise TaskError("Inputs must be nested lists of numbers, of equal lengths and not empty.")
    _check_range(array, dtype)
    with np.errstate(over="ignore"):  # infinity is refused below
        inputs = _batch(array.astype(dtype), input, most)
    if not inputs.isfinite().all():
        raise TaskError("Inputs must be finite, the request holds NaN, infinity or too large ones.")
    return inputs


def _check_length(body: bytes, input: InputDescription, most: int) -> None:
    longest = most * math.prod(input.example_shape) * BYTES_PER_NUMBER + BYTES_OF_REST
    if len(body) > longest:
        raise TaskError(
            f"JSON for at most {most} examples of the shape {input.example_shape} has at most "
            f"{longest:,} bytes, this has {len(body):,}."
        )


def _default_dtype(array: np.ndarray[Any, Any], input: InputDescription) -> str:
    """Dtype of numbers sent without one: integers are pixels if the network takes images."""
    if input.is_image and array.dtype.kind in "iu":
        return "uint8"
    return "float32" if input.dtype == "bfloat16" else input.dtype  # numpy has no bfloat16


def _check_range(array: np.ndarray[Any, Any], dtype: np.dtype[Any]) -> None:
    if dtype.kind in "iu" and (array.dtype.kind == "f" or not _fits(array, dtype)):
        raise TaskError(f"Inputs of dtype {dtype} must be whole numbers within its range.")
    if dtype.kind not in "iuf":
        raise TaskError(f"Inputs must have a numeric dtype, got {dtype}.")


def _fits(array: np.ndarray[Any, Any], dtype: np.dtype[Any]) -> bool:
    limits = np.iinfo(dtype)
    return array.size == 0 or bool(array.min() >= limits.min and array.max() <= limits.max)


def _batch(array: np.ndarray[Any, Any], input: InputDescription, most: int) -> Tensor:
    shape = input.example_shape
    if array.dtype == np.uint8 and input.is_image:
        array = array[None] if array.ndim < len(shape) else array
        inputs = as_inputs(array[None] if array.shape == shape else array, input, "the request")
    else:
        inputs = as_inputs(array[None] if array.shape == shape else array, None, "the request")
    if tuple(inputs.shape[1:]) != shape or not len(inputs):
        raise TaskError(f"Examples must have the shape {shape}, got {tuple(inputs.shape[1:])}.")
    if len(inputs) > most:
        raise TaskError(f"A request has at most {most} examples, got {len(inputs)}.")
    if inputs.dtype == torch.uint8 and input.is_image:
        return input.normalise(inputs)
    refuse_overflow(inputs, input.dtype, "the request")
    return inputs.to(getattr(torch, input.dtype))
