"""Batch normalisation statistics, re-estimated on the task's training inputs without labels."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from autotune.backbones.activation_checkpoints import plain_checkpoints
from autotune.backbones.inputs import InputDescription
from autotune.problem.budget import Cost
from autotune.tasks.loading import generator_of, shuffled
from autotune.tasks.part import Part

BATCH = 64
"""Maximum batch size for computing a mean and a variance.

Not tuned: statistics are averaged over batches, so beyond a few tens the size matters little.
"""


def has_statistics(network: nn.Module) -> bool:
    """Whether any layer normalises with running statistics."""
    return bool(_layers(network))


def statistics_cost(network: nn.Module) -> Cost:
    """Cost of storing re-estimated statistics in the delta file; none of them is trained."""
    names = [f"{n}.{kind}" for n in _layers(network) for kind in ("running_mean", "running_var")]
    buffers = [network.get_buffer(name) for name in names]
    stored = sum(buffer.numel() for buffer in buffers)
    return Cost(0, stored, sum(buffer.numel() * buffer.element_size() for buffer in buffers))


@torch.no_grad()
@plain_checkpoints()
def estimate_statistics(
    network: nn.Module, part: Part, *, input: InputDescription | None, device: torch.device
) -> dict[str, Tensor]:
    """Name of a buffer → value estimated on `part`; the network itself does not change.

    Means and variances are averaged over batches of about equal size, without a small last one;
    all other layers are in evaluation mode (adaptive batch normalisation, arXiv 1603.04779).
    """
    layers = _layers(network)
    before = {name: b.clone() for name, b in network.named_buffers()}
    modes = [(module, module.training) for module in network.modules()]
    momenta = {layer: layer.momentum for layer in layers.values()}
    network.eval()
    try:
        for layer in layers.values():
            layer.reset_running_stats()
            layer.momentum = None
            layer.train()
        size = math.ceil(len(part) / math.ceil(len(part) / BATCH))
        for inputs, _ in shuffled(part, size, generator_of(0, 0), input=input, device=device):
            if 2 * len(inputs) >= size:
                network(inputs)
        return _statistics(network, layers)
    finally:
        for layer, momentum in momenta.items():
            layer.momentum = momentum
        for name, value in before.items():
            network.get_buffer(name).copy_(value)
        for module, mode in modes:
            module.training = mode


def _layers(network: nn.Module) -> dict[str, nn.modules.batchnorm._BatchNorm]:
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None
    }


def _statistics(
    network: nn.Module, layers: dict[str, nn.modules.batchnorm._BatchNorm]
) -> dict[str, Tensor]:
    names = [f"{name}.{kind}" for name in layers for kind in ("running_mean", "running_var")]
    return {name: network.get_buffer(name).clone() for name in names}


class ReplacedBuffers:
    """Temporary values for some buffers of a network."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.values: dict[str, Tensor] = {}
        """Name of a buffer → value; set before `put`."""

        self._originals: dict[str, Tensor] = {}

    def put(self) -> None:
        """Write the values into the network."""
        for name, value in self.values.items():
            buffer = self.network.get_buffer(name)
            self._originals[name] = buffer.clone()
            buffer.copy_(value)

    def restore(self) -> None:
        """Write the original values back; does nothing if they are already there."""
        for name, value in self._originals.items():
            self.network.get_buffer(name).copy_(value)
        self._originals.clear()
