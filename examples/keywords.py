"""Adapt a keyword spotter to the ten spoken digits: frames of audio instead of images.

autotune search --backbone python:examples/keywords.py:res8
    --task python:examples/keywords.py:digits --budget 5% --trials 10 --epochs 5
"""

import os
import sys

import numpy as np
from safetensors.torch import load_file
from torch import Tensor, nn, ones

import autotune

DATA = os.getenv("AUTOTUNE_DATA") or sys.exit("AUTOTUNE_DATA must name the folder with fsdd.npz.")


class Res8(nn.ModuleDict):
    """Frames (n, 101, 40) → logits: a layer, then three residual pairs (arXiv 1710.10361)."""

    def forward(self, frames: Tensor) -> Tensor:
        x = total = nn.functional.avg_pool2d(self["conv0"](frames[:, None]).relu(), (4, 3))
        for i in (1, 3, 5):
            scale = getattr(self, f"scale{i}")[:, None, None]
            x = self[f"bn{i}"](self[f"conv{i}"](x).relu()) * scale
            total = total + self[f"conv{i + 1}"](x).relu()
            x = self[f"bn{i + 1}"](total)
        return self["output"](x.mean((2, 3)))


def res8() -> nn.Module:
    network = Res8({"conv0": nn.Conv2d(1, 45, 3, padding=1, bias=False)})
    for i in range(1, 7):
        network[f"conv{i}"] = nn.Conv2d(45, 45, 3, padding=1, bias=False)
        network[f"bn{i}"] = nn.BatchNorm2d(45, affine=False)
    network.scale1, network.scale3, network.scale5 = (nn.Parameter(ones(45)) for _ in range(3))
    network["output"] = nn.Linear(45, 12)
    weights = load_file(f"{DATA}/res8.safetensors")  # some are subnormal, which slows CPUs down
    network.load_state_dict({k: nn.functional.hardshrink(w, 1e-30) for k, w in weights.items()})
    network["output"] = nn.Linear(45, 10)
    return network


def digits() -> list[tuple[np.ndarray, np.ndarray]]:
    with np.load(f"{DATA}/fsdd.npz") as z:
        parts = ("train", "val", "test")
        return [(z[f"{p}_x"] * z["scale"] + z["offset"], z[f"{p}_y"]) for p in parts]


def main(out: str | None = None, *, trials: int = 10, epochs: int = 5, **settings: int) -> None:
    backbone, task = (f"python:{__file__}:{name}" for name in ("res8", "digits"))
    study = autotune.search(backbone, task, "5%", trials=trials, epochs=epochs, out=out, **settings)
    print(f"Plan: {study.best.plan}, test {study.best.test['accuracy']:.3f}")
    print(f"A linear probe: test {study.baselines['probe'].test['accuracy']:.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
