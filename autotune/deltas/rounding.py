"""Rounding of outputs that two forms of one network may differ by, by the network's dtype."""

from __future__ import annotations

import torch
from torch import nn

FACTORS = {torch.float64: 1e-6, torch.float32: 1.0, torch.float16: 1e3, torch.bfloat16: 4e3}
"""Rounding of a dtype relative to float32.

ONNX Runtime keeps some constants of float64 networks in float32, so that outputs differ by 1e-12,
not by 1e-15. Half precision rounds at 1e-3 (float16) or 8e-3 (bfloat16). Outputs of networks in
bfloat16 differ by 1e-3 to 2e-2 of the largest if operations are fused or reordered; 1e-5 of float32
becomes 4e-2.
"""


def rounding(network: nn.Module) -> float:
    """Rounding of the network's coarsest floating-point tensor, relative to float32."""
    tensors = (*network.parameters(), *network.buffers())
    dtypes = {tensor.dtype for tensor in tensors if tensor.dtype in FACTORS}
    return max((FACTORS[dtype] for dtype in dtypes), default=1.0)
