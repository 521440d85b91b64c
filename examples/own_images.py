"""Tune on your own images, with one folder per class: `python examples/own_images.py images`.

Without an argument it creates a folder with three classes of noisy patterns. The digits network
takes grey images of any size; for photographs use `torchvision:resnet18` instead.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

import autotune


def draw(folder: str, each: int = 20) -> None:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:32, :32] / 5
    for kind in ("checks", "columns", "rows"):
        Path(folder, kind).mkdir()
        for i in range(each):
            across, down = (np.sin(z + rng.uniform(0, 6)) for z in (x, y))
            bright = {"checks": across * down, "columns": across, "rows": down}[kind]
            pixels = 128 + 60 * bright + rng.normal(0, 40, bright.shape)
            image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            image.save(Path(folder, kind, f"{i:02}.png"))


def tune(images: str, out: str | None, **settings: int) -> None:
    grey = autotune.InputDescription(size=(16, 16), channels=1, mean=(0.0,), std=(1.0,))
    backbone = autotune.load_backbone("builtin:digits", input=grey)
    study = autotune.search(backbone, f"imagefolder:{images}", "1%", out=out, **settings)
    # If no plan beats a linear probe, the plan is empty: only the head is trained.
    print(f"Plan: {study.best.plan}, test {study.best.test['accuracy']:.3f}")

    task = autotune.load_task(f"imagefolder:{images}", grey)
    some = [0, len(task.train) // 2, len(task.train) - 1]
    inputs = grey.normalise(task.train.inputs[some])
    with autotune.adapted(backbone, study.best.artifact) as network:
        answers = network(inputs).argmax(1).tolist()
    for row, answer in zip(some, answers, strict=True):
        print(f"An image of {task.classes[task.train.labels[row]]}: {task.classes[answer]}")


def main(images: str | None = None, out: str | None = None, **settings: int) -> None:
    if images:
        tune(images, out, **settings)
        return
    with TemporaryDirectory() as folder:
        draw(folder)
        tune(folder, out, **settings)


if __name__ == "__main__":
    main(*sys.argv[1:])
