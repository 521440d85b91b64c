"""`builtin:digits`: a small residual network that autotune trains itself on first use."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from autotune.backbones.base import Backbone, describe, fingerprint
from autotune.backbones.inputs import InputDescription
from autotune.backbones.sources.digits_data import halves
from autotune.backbones.weights.loading import load_weights, read_weights
from autotune.errors import BackboneError, UnknownName, unknown
from autotune.utils.events import tell
from autotune.utils.files import cache_folder, is_foreign, is_trusted, write_whole

INPUT = InputDescription(size=(8, 8), channels=1, mean=(0.0,), std=(1.0,))
EPOCHS, BATCH, RATE, DECAY = 15, 64, 3e-3, 1e-2
"""Epochs, batch size, first learning rate and weight decay of the pretraining."""


def load(
    name: str,
    *,
    weights: str | None = None,
    head: str | None = None,
    input: InputDescription | None = None,
    shapes_only: bool = False,
) -> Backbone:
    """Load the digits network, pretrained on half of the digits or with the user's weights."""
    if name != "digits":
        raise UnknownName(unknown("builtin backbone", name, ["digits"]))
    network: nn.Module = DigitsNet()
    if weights == "none" or shapes_only:
        pass
    elif weights is not None:
        network = load_weights(network, read_weights(weights), source=weights, head=head)
    else:
        network.load_state_dict(_pretrained())
    return describe(
        network, source="builtin:digits", family="digits", head=head, input=input or INPUT
    )


class Block(nn.Module):
    """Two 3×3 convolutions with a residual path (He et al. 2016)."""

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


class DigitsNet(nn.Module):
    """Six residual blocks of 32, 64 and 128 channels: (n, 1, 8, 8) → (n, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.layer1 = nn.Sequential(Block(32, 32, 1), Block(32, 32, 1))
        self.layer2 = nn.Sequential(Block(32, 64, 2), Block(64, 64, 1))
        self.layer3 = nn.Sequential(Block(64, 128, 2), Block(128, 128, 1))
        self.fc = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]


def cache_file() -> Path:
    """Path of the cached pretrained weights."""
    return cache_folder() / "digits-1.safetensors"


def _pretrained() -> dict[str, Tensor]:
    file = cache_file()
    if (state := _cached(file)) is not None:
        return state
    state = _pretrain()
    try:
        if is_foreign(file):
            raise PermissionError(errno.EACCES, "another user's file is not replaced")
        write_whole(file, save(state, metadata={"fingerprint": fingerprint(state)}))
    except OSError as error:
        tell("cache", f"The digits network could not be cached in {file} ({error.strerror}).")
    return state


def _cached(file: Path) -> dict[str, Tensor] | None:
    """Cached weights; None if there are none, or the file is damaged or another user's."""
    reason = "is damaged"
    try:
        if not is_trusted(file):
            reason = "is not a file of yours"
        elif (state := _stored(file)) is not None:
            return state
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (SafetensorError, OSError, KeyError, TypeError):
        pass
    tell("cache", f"The cached digits network {file} {reason} and will be trained again.")
    return None


def _stored(file: Path) -> dict[str, Tensor] | None:
    """Weights of a file; None if they are not those that were written, or of another network."""
    with safe_open(file, "pt") as stored:
        state = {name: stored.get_tensor(name) for name in stored.keys()}
        is_whole = stored.metadata()["fingerprint"] == fingerprint(state)
    return state if is_whole and _kinds(state) == _kinds(DigitsNet().state_dict()) else None


def _kinds(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in state.items()}


def _pretrain() -> dict[str, Tensor]:
    (x, y), _ = halves()
    inputs, labels = torch.from_numpy(x), torch.from_numpy(y)
    steps = len(x) // BATCH
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = DigitsNet()
        optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=DECAY)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * steps)
        for epoch in range(EPOCHS):
            for batch in torch.randperm(len(x))[: steps * BATCH].view(steps, BATCH):
                loss = F.cross_entropy(network(inputs[batch]), labels[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
            tell(
                "progress",
                "Training the digits network on half of the digits (once)",
                done=epoch + 1,
                total=EPOCHS,
            )
    if not torch.isfinite(loss):
        raise BackboneError("The digits network must train, its loss became NaN. Check torch.")
    return dict(network.state_dict())
