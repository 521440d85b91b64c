"""Three architectures in plain torch and torchvision, independent of autotune."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import VisionTransformer, resnet18


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = nn.Sequential()
        if inputs != outputs:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class Digits(nn.Module):
    """Same architecture as `builtin:digits`."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.layer1 = nn.Sequential(Block(32, 32, 1), Block(32, 32, 1))
        self.layer2 = nn.Sequential(Block(32, 64, 2), Block(64, 64, 1))
        self.layer3 = nn.Sequential(Block(64, 128, 2), Block(128, 128, 1))
        self.fc = nn.Linear(128, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        return self.fc(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


def vit(classes: int) -> VisionTransformer:
    return VisionTransformer(
        image_size=16,
        patch_size=8,
        num_layers=3,
        num_heads=2,
        hidden_dim=16,
        mlp_dim=32,
        num_classes=classes,
    )


NETS = {"digits": Digits, "resnet18": lambda n: resnet18(num_classes=n), "vit": vit}
SHAPES = {"digits": (1, 8, 8), "resnet18": (3, 32, 32), "vit": (3, 16, 16)}


def network(name: str, classes: int = 7) -> nn.Module:
    """Network with random weights, including normalisation statistics and the head."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        made = NETS[name](classes)
        for key, tensor in made.state_dict().items():
            if tensor.is_floating_point() and (tensor.ndim == 1 or key.startswith("heads")):
                tensor.copy_(0.5 + torch.rand_like(tensor))
    return made.eval()
