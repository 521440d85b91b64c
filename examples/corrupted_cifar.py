"""Adapt a ResNet-20 for CIFAR-10 to noisy images, with 1 % of its parameters.

Needs `$AUTOTUNE_DATA`, a folder with resnet20.safetensors and cifar10.npz (uint8 images `train_x`
and labels `train_y`, and the same for val and test).
"""

import os
import sys
from pathlib import Path

import numpy as np

import autotune

DATA = os.getenv("AUTOTUNE_DATA") or sys.exit(
    "AUTOTUNE_DATA must name the folder with cifar10.npz."
)
HERE = Path(__file__).parent


def noisy_images(seed: int = 0) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """First thousand images of each part with Gaussian noise."""
    rng, parts = np.random.default_rng(seed), {}
    with np.load(f"{DATA}/cifar10.npz") as stored:
        for part in ("train", "val", "test"):
            images, labels = stored[f"{part}_x"][:1000], stored[f"{part}_y"][:1000]
            noisy = images + rng.normal(0, 20, images.shape)
            parts[part] = noisy.clip(0, 255).astype(np.uint8), labels
    return parts


def main(out: str | None = None, **settings: int) -> None:
    study = autotune.search(
        backbone=f"python:{HERE / 'cifar_resnet.py'}:resnet20",
        weights=f"{DATA}/resnet20.safetensors",
        keep_head=True,  # the classes are those of the backbone
        input=str(HERE / "cifar_input.yaml"),
        task=f"python:{__file__}:noisy_images",
        space="resnet",
        budget="1%",
        out=out,
        **settings,
    )
    print(f"Plan: {study.best.plan}")
    print(f"{study.best.cost.parameters:,} of {study.problem.budget.total:,} parameters change.")
    print(f"Test accuracy under noise {study.best.test['accuracy']:.3f}")
    for name, baseline in study.baselines.items():
        print(f"  {name}: {baseline.test['accuracy']:.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
