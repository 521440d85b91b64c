"""Train only the parameters that a mask selects, without autotune: `use_mask.py mask.safetensors`.

`autotune export RUN --format mask --tensors mask.safetensors` writes the mask: for every parameter
of the backbone a boolean tensor of its shape, which is true where the tuned value may differ.
"""

import sys

import torch
from safetensors.torch import load_file
from torchvision.models import resnet18


def freeze(network: torch.nn.Module, mask: dict[str, torch.Tensor]) -> list[str]:
    """Freeze all weights that the mask does not mark; return the names of trainable tensors.

    In partly marked tensors, gradients of the other weights are set to 0.
    """
    for name, parameter in network.named_parameters():
        chosen = mask.get(name)
        parameter.requires_grad_(chosen is not None and bool(chosen.any()))
        if parameter.requires_grad and not chosen.all():
            parameter.register_hook(chosen.to(parameter).mul)
    return [name for name, parameter in network.named_parameters() if parameter.requires_grad]


if __name__ == "__main__":
    network = resnet18()
    print(*freeze(network, load_file(sys.argv[1])), sep="\n")
