"""Any `nn.Module` and any data sets: a small network of one's own, searched from Python."""

import sys

import torch
from torch import nn
from torch.utils.data import TensorDataset

import autotune


def pretrained() -> nn.Module:
    """Stands for a network that you have: it tells apart where a bright spot is."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
        nn.Sequential(nn.Conv2d(8, 16, 3, 2, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        nn.Flatten(),
        nn.Linear(16 * 16, 4),
    )
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    pictures, places = spots(512, noise=0.1)
    for _ in range(20):
        loss = nn.functional.cross_entropy(network(pictures), places)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


def spots(n: int, noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures (n, 1, 8, 8) with a spot in one of four quarters, and which (n,)."""
    places = torch.arange(n) % 4
    pictures = noise * torch.randn(n, 1, 8, 8)
    pictures[torch.arange(n), 0, 2 + 4 * (places // 2), 2 + 4 * (places % 2)] += 1
    return pictures, places


def main(out: str | None = None, **settings: int) -> None:
    backbone = pretrained()
    train, test = (TensorDataset(*spots(n, noise=0.5)) for n in (200, 200))
    study = autotune.search(backbone, (train, test), budget="20%", out=out, **settings)
    print(f"Plan: {study.best.plan}, test {study.best.test['accuracy']:.3f}")
    tuned = autotune.load_adapted(backbone, study.best.artifact)
    print(tuned(spots(4, noise=0.5)[0]).argmax(1).tolist())


if __name__ == "__main__":
    main(*sys.argv[1:])
