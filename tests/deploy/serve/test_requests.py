"""Bodies of requests become inputs in the dtype that the network takes."""

from __future__ import annotations

import pytest
import torch

from autotune.backbones.inputs import InputDescription
from autotune.deploy.serve.requests import read_inputs


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("body", [b'{"inputs": [0.5, 1]}', b'{"inputs": [[1, 2]]}'])
def test_numbers_without_a_dtype_take_the_networks(dtype, body):
    inputs = read_inputs(body, "application/json", InputDescription(shape=(2,), dtype=dtype), 8)
    assert inputs.dtype == getattr(torch, dtype)
    assert inputs.shape == (1, 2)
