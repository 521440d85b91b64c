"""Search with your own `nn.Module` and datasets, from Python."""

import sys

import torch
from torch import nn
from torch.utils.data import TensorDataset

import autotune


def pretrained() -> nn.Module:
    """Stand-in for your own network; it recognises in which quarter a bright spot is."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
        nn.Sequential(nn.Conv2d(8, 16, 3, 2, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        nn.Flatten(),
        nn.Linear(16 * 16, 4),
    )
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    images, quarters = spots(512, noise=0.1)
    for _ in range(20):
        loss = nn.functional.cross_entropy(network(images), quarters)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


def spots(n: int, noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (n, 1, 8, 8) with a spot in one of four quarters, and its quarter (n,)."""
    quarters = torch.arange(n) % 4
    images = noise * torch.randn(n, 1, 8, 8)
    images[torch.arange(n), 0, 2 + 4 * (quarters // 2), 2 + 4 * (quarters % 2)] += 1
    return images, quarters


def main(out: str | None = None, **settings: int) -> None:
    backbone = pretrained()
    train, test = (TensorDataset(*spots(n, noise=0.5)) for n in (200, 200))
    study = autotune.search(backbone, (train, test), budget="20%", out=out, **settings)
    print(f"Plan: {study.best.plan}, test {study.best.test['accuracy']:.3f}")
    tuned = autotune.load_adapted(backbone, study.best.artifact)
    print(tuned(spots(4, noise=0.5)[0]).argmax(1).tolist())


if __name__ == "__main__":
    main(*sys.argv[1:])
