"""Layer kernels seen as matrices or by output channel, and an unconstrained change of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from autotune.deltas.site import Slot

_TRANSPOSED = nn.modules.conv._ConvTransposeNd
_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)


def matrix_shape(kernel: Tensor) -> tuple[int, int]:
    """(rows, columns) of a kernel as a matrix: its first dimension against all others.

    A convolution is (out, in/groups·height·width), a transposed one (in, out/groups·height·width),
    an embedding (words, width), a packed projection (3·width, width).
    """
    return len(kernel), kernel[0].numel()


def rank_of(kernel: Tensor, rank: int) -> int:
    """`rank`, or the largest that the kernel can have."""
    return min(rank, *matrix_shape(kernel))


def channels(slot: Slot) -> int:
    """Number of output channels of a layer's kernel, norm or bias."""
    tensor, layer = slot.tensor, slot.layer
    if isinstance(layer, _EMBEDDINGS):
        return tensor.shape[1]
    if isinstance(layer, _TRANSPOSED) and tensor.ndim > 1:
        return layer.groups * tensor.shape[1]
    return len(tensor)


def per_channel(values: Tensor, slot: Slot, kernel: Tensor) -> Tensor:
    """Reshape `values` (one per output channel) to multiply `kernel` channel by channel."""
    layer = slot.layer
    if isinstance(layer, _EMBEDDINGS):
        return values
    rest = [1] * (kernel.ndim - 1)
    if isinstance(layer, _TRANSPOSED) and kernel.ndim > 1:
        # (in, out/groups, …): each group of input rows has its own output channels
        by_group = values.view(layer.groups, 1, -1, *rest[1:])
        rows = len(kernel) // layer.groups
        return by_group.expand(-1, rows, -1, *rest[1:]).flatten(0, 1)
    return values.view(-1, *rest)


def top_singular_masses(kernels: Sequence[Tensor], ranks: Sequence[int]) -> list[float]:
    """For each rank r, the sum over kernels of the r largest squared singular values."""
    spectra = [_squared_singular_values(kernel) for kernel in kernels]
    return [float(sum(float(squares[:rank].sum()) for squares in spectra)) for rank in ranks]


def _squared_singular_values(kernel: Tensor) -> Tensor:
    matrix = kernel.reshape(matrix_shape(kernel)).double()
    gram = matrix @ matrix.t() if len(matrix) <= matrix.shape[1] else matrix.t() @ matrix
    squares: Tensor = torch.linalg.eigvalsh(gram).flip(0)
    return squares


class Shift(nn.Module):
    """A free change of a tensor, as large as the tensor itself, zero at start."""

    def __init__(self, tensor: Tensor) -> None:
        super().__init__()
        self.shift = nn.Parameter(tensor.new_zeros(tensor.shape))

    def forward(self, tensor: Tensor) -> Tensor:
        return self.shift
