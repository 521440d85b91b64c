"""Searches on the CIFAR-10 ResNet-20 under a corruption, at 1 %; needs `AUTOTUNE_DATA`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from first_search import ROWS, accuracies
from results import spread, table, write_section

import autotune

ROOT = Path(__file__).parent.parent


def write_task(file: Path, corruption: str, severity: int, n_train: int, n_val: int = 1000) -> None:
    """Write an .npz file with the first uint8 images (n, 32, 32, 3) of train, val and test.

    The parts are stored in an order that makes their first examples class-balanced.
    """
    folder = Path(os.environ["AUTOTUNE_DATA"])
    sys.path.insert(0, str(folder))
    from corrupt import corrupt

    with np.load(folder / "cifar10.npz") as stored:
        arrays = {}
        for seed, (part, n) in enumerate((("train", n_train), ("val", n_val), ("test", 2000))):
            images = stored[f"{part}_x"][:n]
            arrays[f"x_{part}"] = corrupt(images, corruption, severity, seed)
            arrays[f"y_{part}"] = stored[f"{part}_y"][:n]
    np.savez(file, **arrays)


def sources(task: Path) -> dict[str, Any]:
    """Settings of a search on the ResNet-20 and a task that `write_task` wrote."""
    return {
        "backbone": f"python:{ROOT / 'examples' / 'cifar_resnet.py'}:resnet20",
        "weights": str(Path(os.environ["AUTOTUNE_DATA"]) / "resnet20.safetensors"),
        "input": str(ROOT / "examples" / "cifar_input.yaml"),
        "task": f"npz:{task}",
        "space": "resnet",
    }


def searched(task: Path, seed: int, **settings: Any) -> dict[str, Any]:
    return autotune.search(**sources(task), budget="1%", seed=seed, **settings).status()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corruption", default="gaussian_noise")
    parser.add_argument("--severity", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    if "AUTOTUNE_DATA" not in os.environ:
        sys.exit("AUTOTUNE_DATA must name the folder with resnet20.safetensors and cifar10.npz.")
    with TemporaryDirectory() as folder:
        task = Path(folder) / "task.npz"
        write_task(task, arguments.corruption, arguments.severity, 1000)
        runs = [searched(task, s, out=f"{folder}/run-{s}") for s in range(arguments.seeds)]
    tests = [accuracies(status) for status in runs]
    rows = [[row, spread([test[row] for test in tests])] for row in ROWS]
    plans = "\n".join(f"- seed {s}: {one['best']['label']}" for s, one in enumerate(runs))
    costs = ", ".join(f"{one['best']['cost']['parameters']:,}" for one in runs)
    share = spread([s["seconds"] / s["full_finetuning_seconds"] for s in runs], scale=1)
    title = f"ResNet-20, {arguments.corruption} {arguments.severity}, 1 %"
    limit = runs[0]["budget"]["limit"]
    accuracy = table(["method", "test accuracy, %"], rows)
    text = f"Plans ({costs} of {limit:,} parameters); search cost {share} × one full fine-tuning:"
    write_section(title, f"{accuracy}\n\n{text}\n\n{plans}")


if __name__ == "__main__":
    main()
