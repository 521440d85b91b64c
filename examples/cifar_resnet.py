"""ResNets for 32×32 images (He et al. 2016, section 4.2), as a `python:` backbone.

autotune search --backbone python:examples/cifar_resnet.py:resnet20 --weights resnet20.safetensors
    --input examples/cifar_input.yaml --space resnet --task npz:noisy.npz --budget 1%
"""

from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """Two 3×3 convolutions; the shortcut subsamples and pads channels and has no parameters."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.stride = 1 if inputs == outputs else 2
        self.conv1 = nn.Conv2d(inputs, outputs, 3, self.stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride == 2:
            missing = y.shape[1] - x.shape[1]
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, missing // 2, missing - missing // 2))
        return F.relu(x + y)


class CifarResNet(nn.Module):
    """(n, 3, 32, 32) → (n, 10); three stages of `blocks` blocks with 16, 32 and 64 channels."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        for stage, (before, width) in enumerate(((16, 16), (16, 32), (32, 64)), 1):
            more = [Block(width, width) for _ in range(blocks - 1)]
            self.add_module(f"layer{stage}", nn.Sequential(Block(before, width), *more))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def resnet20() -> nn.Module:
    return CifarResNet(3)


def resnet56() -> nn.Module:
    return CifarResNet(9)
