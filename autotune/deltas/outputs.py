"""Outputs of a network on some inputs, for comparisons of two forms of it."""

from __future__ import annotations

from torch import Tensor, nn

from autotune.backbones.eval_mode import evaluating
from autotune.deltas.rounding import rounding
from autotune.deltas.surgery import difference

REPETITION = 1e-6
"""Largest difference between two forward passes of one network in float32.

Kernels of GPUs may add in any order; random numbers in a forward pass change far more.
"""

NOT_REPEATABLE = "Two forward passes of this network differ in evaluation mode (random numbers), so"
REPEATABLE = (
    "Make it deterministic in evaluation mode, such as F.dropout(x, p, training=self.training)."
)


def outputs_of(network: nn.Module, inputs: Tensor) -> Tensor:
    """Outputs of the network in evaluation mode, without gradients."""
    with evaluating(network):
        outputs: Tensor = network(inputs)
    return outputs


def repeatable_outputs(network: nn.Module, inputs: Tensor) -> Tensor | None:
    """Outputs of the network, or None if a second forward pass gives other ones."""
    first, second = outputs_of(network, inputs), outputs_of(network, inputs)
    if first.shape != second.shape or not is_repetition(first, second, network):
        return None
    return first


def is_repetition(first: Tensor, second: Tensor, network: nn.Module) -> bool:
    """Whether two outputs differ by no more than rounding; NaN in both repeats."""
    first, second = first.nan_to_num(), second.nan_to_num()
    return difference(second, first) <= REPETITION * rounding(network)
