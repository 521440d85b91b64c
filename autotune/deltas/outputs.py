"""Outputs of a network on some inputs, for comparisons of two forms of it."""

from __future__ import annotations

from torch import Tensor, nn

from autotune.backbones.eval_mode import evaluating
from autotune.backbones.forward import logits_of
from autotune.deltas.rounding import rounding
from autotune.deltas.surgery import difference
from autotune.errors import first_line

REPETITION = 1e-6
"""Largest difference between two forward passes of one network in float32.

Kernels of GPUs may add in any order; random numbers in a forward pass change far more.
"""

NOT_REPEATABLE = "two forward passes of this network differ in evaluation mode"
REPEATABLE = (
    "Make it deterministic in evaluation mode, such as F.dropout(x, p, training=self.training), "
    "and update nothing that it reads."
)


def outputs_of(network: nn.Module, inputs: Tensor) -> Tensor:
    """Outputs of the network in evaluation mode, without gradients."""
    with evaluating(network):
        outputs: Tensor = logits_of(network(inputs))
        return outputs


def refusal(network: nn.Module, inputs: Tensor) -> str:
    """First line of what the network raises on some inputs; empty if it takes them."""
    try:
        outputs_of(network, inputs)
    except Exception as error:  # the network's code may raise anything
        return first_line(error)
    return ""


def is_repeatable(network: nn.Module, inputs: Tensor) -> bool:
    """Whether a second forward pass gives the same outputs, but for rounding; NaN repeats NaN.

    Between the two runs a third, on some of the inputs, as a network may read what it wrote before.
    """
    few = inputs[1:] if len(inputs) > 1 else inputs
    with evaluating(network):
        first, _, second = (logits_of(network(x.clone())) for x in (inputs, few, inputs))
    if first.shape != second.shape:
        return False
    return difference(second.nan_to_num(), first.nan_to_num()) <= REPETITION * rounding(network)
