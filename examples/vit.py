"""Adapt a small Vision Transformer, pretrained on upright handwritten digits, to rotated ones.

Its class is torchvision's, so units and methods of the search space `vit` apply, as they do to
`torchvision:vit_b_16`.
"""

import sys

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torchvision.models import VisionTransformer

import autotune


def digits() -> tuple[Tensor, Tensor]:
    """Images (1797, 3, 8, 8) in 0..1, labels (1797,)."""
    images, labels = load_digits(return_X_y=True)
    grey = torch.from_numpy(images).float().view(-1, 1, 8, 8) / 16
    return grey.expand(-1, 3, -1, -1), torch.from_numpy(labels).long()


def pretrained(images: Tensor, labels: Tensor, epochs: int = 20) -> nn.Module:
    torch.manual_seed(0)
    network = VisionTransformer(
        image_size=8,
        patch_size=2,
        num_layers=4,
        num_heads=4,
        hidden_dim=32,
        mlp_dim=64,
        num_classes=10,
    )
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(100):
            loss = nn.functional.cross_entropy(network(images[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.eval()


def main(out: str | None = None, **settings: int) -> None:
    images, labels = digits()
    network = pretrained(images[:900], labels[:900])
    rotated = images[900:].rot90(dims=(2, 3)), labels[900:]
    study = autotune.search(network, rotated, "2%", space="vit", out=out, **settings)
    print(f"Plan: {study.best.plan}, test {study.best.test['accuracy']:.3f}")
    for name, baseline in study.baselines.items():
        print(f"  {name}: test {baseline.test['accuracy']:.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
